"""Every default of the program, in one place. The code itself has none.

A config file starts from `get_config()` and changes what its data set needs.
Keys are locked and typed: `--config.train.lerning_rate=1` is an error that
names the nearest known key.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults; the published BIGRec protocol where it has one."""
  cfg = ml_collections.ConfigDict
  config = cfg()
  config.seed = 0
  # "0,1,2": a mode runs once for each, in <workdir>/seed-<n>; () = `seed` only.
  config.seeds = ()

  config.task = cfg()
  # One per file of bigrec_jax/tasks; next_title is BIGRec.
  config.task.name = "next_title"
  # TALLRec. Train rows are data.num_train of its samples, its few shots.
  config.task.yes_no = cfg()
  config.task.yes_no.threshold = 3.0  # Ratings above it are likes.
  # last_windows: the last windows with a full history, in the order of users;
  # users: one sample a user, items shuffled, users split at random.
  config.task.yes_no.split = "last_windows"
  config.task.yes_no.records = 10000  # Of last_windows; 0 = all.
  config.task.yes_no.min_items = 4  # Of users: those with fewer have no sample.
  config.task.yes_no.noun = "movie"  # movie | book | game | item
  config.task.yes_no.eval_steps = 10  # Between valid AUCs; 0 = each epoch.
  config.task.yes_no.batch_size = 32  # Samples scored at once.
  # CF models of the same samples: gru4rec, caser, sasrec, dros.
  config.task.yes_no.cf_models = ("gru4rec", "caser", "sasrec", "dros")
  # LLaRA: the next item out of some candidates.
  config.task.choose = cfg()
  config.task.choose.cf_model = "sasrec"  # gru4rec | caser | sasrec | dros
  # text: titles alone. direct: item vectors from the start. two_stage: from the
  # middle. curriculum: more and more likely.
  config.task.choose.schedule = "curriculum"
  # Of the curriculum: 0 = it goes by optimizer steps; else by what each of so
  # many data loader workers counts, as in the published code (there 8).
  config.task.choose.workers = 0
  config.task.choose.group = 8  # Samples of a step that share a template.
  config.task.choose.candidates = 20
  config.task.choose.min_history = 3  # Shorter histories are left out.
  config.task.choose.domain = "movie"  # movie | game | artist | item
  # In place of the domain's, with {history}, {candidates} and maybe {count}.
  config.task.choose.templates = ("",)
  # MovieLens titles without their year, with their article in front.
  config.task.choose.bare_titles = False
  # RSLLM: LLaRA's questions, with task.choose's keys. True: no candidates are
  # listed, and what is written is grounded to the whole catalogue.
  config.task.rsllm = cfg()
  config.task.rsllm.full_ranking = False
  # LMRecSys: items by the mean log-probability of their titles.
  config.task.title_likelihood = cfg()
  # Other titles beside the right one, in a step and in the eval loss, drawn
  # once a sample by seed; 0 = all titles.
  config.task.title_likelihood.negatives = 0
  # Titles that are ranked, the right one and others drawn once; 0 = all.
  config.task.title_likelihood.candidates = 0
  config.task.title_likelihood.min_history = 1  # Rows with fewer are left out.
  config.task.title_likelihood.margin = 1.0  # Of train.objective=item_hinge.
  # Nothing is trained: the base is judged as it is.
  config.task.title_likelihood.zero_shot = False
  # M6-Rec: ways to score candidates, trained in one run.
  config.task.heads = cfg()
  config.task.heads.heads = ("score", "late", "towers", "options")
  config.task.heads.negatives = 15  # Beside the right one; 0 = all titles.
  # Titles that are ranked, the right one and others drawn once; 0 = all.
  config.task.heads.candidates = 100
  config.task.heads.late_layers = 1  # Of late: that read pieces apart.
  config.task.heads.soft_tokens = 16  # Of options: vectors before the prompt.
  config.task.heads.width = 64  # Of towers.
  config.task.heads.temperature = 0.05  # Of towers: cosines are divided by it.
  # Cao et al.: samples of each kind for each train row; 0 = none of them.
  config.task.auxiliary = cfg()
  config.task.auxiliary.weights = cfg()
  config.task.auxiliary.weights.retrieval = 1.0
  config.task.auxiliary.weights.ranking = 1.0
  config.task.auxiliary.weights.rating = 1.0  # Left out, aloud, without them.
  config.task.auxiliary.weights.mim = 1.0  # Masked items.
  config.task.auxiliary.weights.mlm = 1.0  # Masked words of titles.
  config.task.auxiliary.weights.bpr = 1.0  # The later item or a random one.
  config.task.auxiliary.item = "title"  # title | id | both: what items read.
  config.task.auxiliary.ids = "place"  # place (in the catalogue) | external
  # What stands behind an item's name: a JSON of id -> text or texts, or
  # MovieLens' movies.csv or .dat for genres; empty = nothing.
  config.task.auxiliary.attributes = ""
  # Behind those: columns of data.items (data.format=csv), such as ("genre",).
  config.task.auxiliary.columns = ()
  config.task.auxiliary.candidates = 100  # Of ranking; one is the target.
  # Newest items of a train row that mim, mlm and bpr see; 0 = all of it.
  config.task.auxiliary.window = 0
  config.task.auxiliary.masked_items = 1  # Of a mim sample.
  config.task.auxiliary.mask_rate = 0.15  # Of an mlm sample's words.
  # What a masked item or words read as; {} is its number. T5: <extra_id_{}>.
  config.task.auxiliary.blank = "<{}>"
  # FaiRLLM. Whose lists: base (without an adapter), tuned, or both.
  config.task.fairness = cfg()
  config.task.fairness.models = ("base",)
  config.task.fairness.values = ""  # JSON, attribute -> values; empty = own.
  config.task.fairness.attributes = ()  # Of these; () = all.
  config.task.fairness.names = ""  # A name a line; empty = popular titles.
  config.task.fairness.num_names = 500  # The first of them.
  config.task.fairness.noun = "movie"  # movie | song | book | game | item
  config.task.fairness.list_length = 20  # K
  config.task.fairness.lists = "text"  # text: one numbered list | beams
  config.task.fairness.begin = ""  # Put into the model's mouth, such as "1.".
  # Chat-REC. The chat model: HF directory or GGUF; empty = the base itself.
  config.task.chat = cfg()
  config.task.chat.model = ""
  config.task.chat.candidates = 20  # Asked of the recommender.
  config.task.chat.listed = 5  # Shown, after the chat model's own order.
  # model: it says whether to call the recommender | always
  config.task.chat.decide = "model"
  config.task.chat.score = "sum"  # sum | mean: of a title's token log p.
  config.task.chat.max_new_tokens = 96  # Of an explanation or an answer.
  config.task.chat.most_turns = 8  # The newest, that the prompt has.
  config.task.chat.noun = "item"  # What is recommended, in the prompts.
  config.task.chat.profile = ""  # JSON object of what is known of the user.
  config.task.chat.request = "What should I have next?"  # In the evaluation.
  config.task.chat.num_users = 0  # Of each split, the first; 0 = all.

  config.model = cfg()
  config.model.path = ""  # HF directory; empty = the base made in the workdir.
  config.model.tokenizer = ""  # Empty = model.path's own.
  config.model.adapter = ""  # PEFT directory: where training starts.
  config.model.dtype = "float32"  # float32 | bfloat16, of the frozen base.
  config.model.quantization = "none"  # none | int8 | nf4
  config.model.scan_layers = True
  config.model.remat = "none"  # none | full | dots: what the backward keeps.
  config.model.attention = "auto"  # auto | xla | cudnn | splash
  # Only read when model.path is empty. Names as in Hugging Face config.json.
  config.model.arch = cfg()
  config.model.arch.hidden_size = 128
  config.model.arch.intermediate_size = 352
  config.model.arch.num_hidden_layers = 4
  config.model.arch.num_attention_heads = 4
  config.model.arch.num_key_value_heads = 4
  config.model.arch.max_position_embeddings = 1024
  config.model.arch.rope_theta = 10000.0
  config.model.arch.rms_norm_eps = 1e-5
  config.model.arch.tie_word_embeddings = True

  # Full-parameter training of that small base on the text of the train split.
  config.pretrain = cfg()
  config.pretrain.vocab_size = 2048  # Of the BPE tokenizer trained first.
  config.pretrain.num_steps = 0  # 0 = leave the random weights as they are.
  config.pretrain.batch_size = 32  # Rows of max_length packed tokens.
  config.pretrain.max_length = 256
  config.pretrain.learning_rate = 3e-3
  config.pretrain.warmup_steps = 50
  config.pretrain.save_every_steps = 200  # Checkpoints; 0 = on a signal only.

  config.lora = cfg()
  config.lora.rank = 8
  config.lora.alpha = 16.0
  config.lora.dropout = 0.05
  config.lora.target_modules = ("q_proj", "v_proj")

  config.data = cfg()
  # synthetic | movielens | amazon | bigrec | sequences | csv
  config.data.format = "synthetic"
  config.data.raw_dir = ""
  config.data.train = ""  # BIGRec JSON files (format bigrec), or the one
  config.data.valid = ""  # sequences file (format sequences) in data.train.
  config.data.test = ""
  config.data.catalogue = ""  # id2name.txt, movies.dat or id -> title JSON.
  # Items to add to what was prepared: a file like data.items.
  config.data.catalogue_add = ""
  # Format csv: who had what, and the items' titles; CSV with any separator,
  # JSON objects a line or Parquet. Columns are found by the usual names, or
  # named (by numbers from 1 in a file without header); the author, if named, is
  # put behind the title, all others of items are kept as attributes.
  config.data.interactions = ""
  config.data.items = ""
  config.data.columns = cfg()
  config.data.columns.user = ""
  config.data.columns.item = ""
  config.data.columns.time = ""
  config.data.columns.rating = ""
  config.data.columns.title = ""
  config.data.columns.author = ""
  # Of the title file: auto (UTF-8 if it is, else ISO-8859-1) | utf-8 |
  # iso-8859-1 (what the published Movie scripts assume).
  config.data.encoding = "auto"
  # Which items are targets: full (a whole history before them), tail (short
  # users give their last), every (one before them); auto = the format's rule.
  config.data.windows = "auto"
  config.data.max_history = 10
  config.data.num_train = -1  # -1 = all; else the few-shot sample by seed.
  config.data.num_valid = 5000  # -1 = all.
  config.data.num_test = 5000
  config.data.sample_seed = 42  # Of the valid and test samples.
  config.data.export_json = False
  config.data.synthetic = cfg()
  config.data.synthetic.num_users = 4000
  config.data.synthetic.num_items = 1200
  config.data.synthetic.seed = 7

  config.prompt = cfg()
  # consistent | bigrec | tallrec | chat | d3 | sentence
  config.prompt.style = "consistent"
  config.prompt.instruction = (
    "Given a list of video games the user has played before, please recommend"
    " a new video game that the user likes to the user."
  )
  config.prompt.history = (
    "The user has played the following video games before:"
  )

  config.train = cfg()
  config.train.batch_size = 128  # Examples per optimizer step.
  config.train.micro_batch_size = 4  # Most rows a forward pass, all devices.
  config.train.num_epochs = 50
  config.train.learning_rate = 1e-4
  config.train.warmup_steps = 20
  # linear: to 0. cosine: LLaRA's, from and to a hundredth of learning_rate.
  config.train.schedule = "linear"
  config.train.max_length = 512
  config.train.train_on_inputs = True
  config.train.early_stopping_patience = 5  # Epochs; 0 = never stop early.
  config.train.shuffle = True
  config.train.packing = True
  config.train.length_buckets = (64, 128, 256)  # Up to max_length; unpacked.
  config.train.share_header = True  # Compute it once per optimizer step.
  config.train.max_grad_norm = 1.0
  config.train.weight_decay = 0.0
  # Times a task's own weights (LLaRA's projector), added to their gradients.
  config.train.own_l2 = 0.0
  config.train.loss_chunk = 512  # Positions per device and block of logits.
  # language_model | legal_tokens: over the tokens that a title may go on with
  # | item_softmax | item_hinge: over the scores of items (title_likelihood)
  # | heads: of task heads.
  # | contrastive: with the terms of train.contrastive beside it.
  config.train.objective = "language_model"
  config.train.temperature = 1.0  # Of legal_tokens.
  # It follows the logits, and `temperature` is where it starts.
  config.train.adaptive_temperature = False
  # After CALRec; these numbers could not be checked (docs/systems.md).
  config.train.contrastive = cfg()
  # Of target against another view of it; of user against target.
  config.train.contrastive.target_weight = 0.125
  config.train.contrastive.user_weight = 0.025
  config.train.contrastive.temperature = 0.5  # Of similarities.
  config.train.contrastive.pooling = "mean"  # mean | last: of token states.
  # The other view: context (the answer behind its prompt) | dropout (the same
  # text under another mask) | words (a fifth of them left out).
  config.train.contrastive.view = "context"
  # Workdirs whose prepared train rows are learned from, too; each may have a
  # weight behind a colon, how often an epoch goes through it. Of the first
  # stage alone where there is one.
  config.train.also = ()
  # A stage before: on texts alone, without soft tokens.
  config.train.first = cfg()
  config.train.first.num_epochs = 0  # 0 = there is none.
  config.train.first.learning_rate = 1e-4
  config.train.first.objective = "language_model"
  config.train.keep_checkpoints = 2
  config.train.save_every_steps = 0  # 0 = at the end of each epoch only.
  config.train.profile_steps = 0  # Trace this many steps, from the third.

  config.generate = cfg()
  config.generate.split = "all"  # valid | test | all
  config.generate.batch_size = 32  # Users side by side; a CPU has two lanes.
  config.generate.num_beams = 4  # As many hypotheses are returned.
  config.generate.max_new_tokens = 128
  config.generate.length_penalty = 1.0
  config.generate.early_stopping = False
  config.generate.length_norm_includes_prompt = False
  config.generate.constrained = False
  config.generate.lookahead = 0  # Tokens a beam a pass, constrained; 0 = off.
  # A CF model that has a say in titles while they are written; empty = none.
  config.generate.prior = ""
  config.generate.prior_weight = 0.5  # Its part of a token's score.
  config.generate.prompt_buckets = (64, 128, 160, 192, 224, 256, 384, 512)
  config.generate.sample = False  # Sampling in place of beams.
  config.generate.temperature = 1.0
  config.generate.top_k = 50
  config.generate.top_p = 1.0

  config.embed = cfg()
  config.embed.model = cfg()
  # Directory of the encoder of titles (sentence-transformers or Hugging Face);
  # empty: the base without its adapter, as published.
  config.embed.model.path = ""
  config.embed.batch_size = 64

  config.ground = cfg()
  config.ground.cutoffs = (1, 3, 5, 10, 20, 50)
  config.ground.duplicates = "best"  # best | last
  # movie_ci | game_ci | movie_pda (the published grids), or numbers "0,.5,1".
  config.ground.gamma_grid = "movie_ci"
  # cf and popularity+cf are left out, aloud, where there are no CF scores.
  config.ground.injections = ("none", "popularity", "cf", "popularity+cf")
  # two_gammas is of popularity+cf alone: a gamma for each of the two.
  config.ground.protocols = ("bigrec", "single_gamma", "two_gammas")
  config.ground.protocol_quirks = False  # HR's popularity gamma by NDCG.
  config.ground.predictions = cfg()
  config.ground.predictions.valid = ""
  config.ground.predictions.test = ""
  config.ground.cf_scores = cfg()
  config.ground.cf_scores.valid = ""
  config.ground.cf_scores.test = ""
  # Use cf/<model>/{valid,test}.npy; "sasrec,item_knn" fuses several
  # (fusion=calibrated), of which the first is what injections use.
  config.ground.cf_model = ""
  config.ground.popularity = ""  # JSON, external id -> count.
  # Beside the published rows, each in a row of its own:
  config.ground.beams = "first"  # first | all: every beam is a query.
  # Candidates whose titles the model itself scores; 0 = none.
  config.ground.likelihood = 0
  config.ground.fusion = "paper"  # paper | calibrated: fitted on valid.
  # Fusions without one part, as rows: text, cf, bm25, popularity.
  config.ground.fusion_ablations = ()
  # Groups of items in the first K of every ranker's lists, for these K.
  config.ground.item_fairness = ()
  # JSON, external id -> groups, or MovieLens' movies file; empty = none beside
  # fifths by popularity.
  config.ground.item_groups = ""
  # Columns of data.items (data.format=csv) whose values are groups, too.
  config.ground.item_columns = ()
  config.ground.batch_size = 512  # Users per block.
  # A device holds the distances of batch_size users to this many items at a
  # time; of fewer users where it has more items.
  config.ground.block_items = 32768
  config.ground.bootstrap_samples = 1000
  config.ground.permutations = 100000  # Sign flips of a paired test.

  # BM25 over titles; the pair with the best valid NDCG@20 is kept.
  config.bm25 = cfg()
  config.bm25.k1 = (0.5, 1.2, 2.0)
  config.bm25.b = (0.0, 0.5, 0.75, 1.0)

  config.cf = cfg()
  # most_pop | item_knn | gru4rec | caser | sasrec | dros, several of them with
  # commas between, or all.
  config.cf.model = "sasrec"
  config.cf.num_train = 0  # Train rows; 0 = data.num_train's, -1 = all.
  config.cf.family = "dros"  # dros | s3rec: which repository's networks.
  config.cf.loss = "bce"  # bce | bpr | sampled_softmax | softmax
  config.cf.num_negatives = 1
  config.cf.negative_power = 0.0  # Drawn by train count ** power; 0 = uniform.
  config.cf.dro = False  # The DRO term for every network; dros always has it.
  config.cf.dro_alpha = 0.5
  config.cf.dro_beta = 1.0
  config.cf.hidden_size = 64
  config.cf.num_layers = 1  # Of sasrec and dros; s3rec's published one has 2.
  config.cf.num_heads = 1  # Of sasrec and dros; s3rec's published one has 2.
  config.cf.dropout = 0.1  # s3rec's published one has 0.5.
  config.cf.learning_rate = 1e-3
  config.cf.weight_decay = 1e-6
  # Values in place of the two above: every pair trains in one program and the
  # one with the best valid NDCG is kept.
  config.cf.grid_learning_rate = ()
  config.cf.grid_weight_decay = ()
  config.cf.batch_size = 256
  config.cf.num_epochs = 100
  config.cf.patience = 10  # Epochs; 0 = never stop early.
  config.cf.stop_cutoff = 20  # By valid NDCG at this cutoff.
  config.cf.num_seeds = 1  # seed, seed + 1, ... train in one program.
  config.cf.save_every_epochs = 10  # Checkpoints; 0 = at the end only.
  config.cf.mask_seen = False  # Items seen before never precede the target.
  config.cf.neighbours = 100  # item_knn
  config.cf.neighbour_decay = 1.0  # item_knn: weight per step into the past.
  # A split whose scores are larger has them as factors only, and no .npy.
  config.cf.max_dense_gib = 0.5

  # Histories to recommend for: a file (JSON lines, CSV or Parquet), or one on
  # the command line (--history, an id or a title each, oldest first), or those
  # of users of the data: all, or a file of their ids.
  config.recommend = cfg()
  config.recommend.histories = ""
  config.recommend.history = ()
  config.recommend.users = ""
  config.recommend.allow = ""  # File of the ids that may be listed, in stock.
  config.recommend.deny = ""  # File of ids that are never listed.
  config.recommend.output = ""  # Empty = <workdir>/recommendations.jsonl.
  config.recommend.k = 10  # Items in a list; one of each title.
  # none | popularity | cf | popularity+cf | auto = what valid likes best.
  config.recommend.injection = "auto"
  config.recommend.gamma = "auto"  # Or a number; auto = ground_eval's.
  config.recommend.exclude_history = True  # Never list what the user has had.
  # CF's list, or popularity's, where the text is far from all titles, or none.
  config.recommend.fallback = True
  # An item that the catalogue lacks: error | nearest (the title most like it)
  # | text (into the prompt as it is) | skip.
  config.recommend.unknown = "error"
  config.recommend.explain = False  # Why each item is where it is.

  # --mode=serve (docs/serve.md).
  config.serve = cfg()
  config.serve.host = "127.0.0.1"  # Of this machine alone; :: is everybody.
  config.serve.port = 8321  # 0 = any free one.
  config.serve.token_file = ""  # Holds the bearer token; empty = none is asked.
  config.serve.max_batch = 16  # Histories that are written side by side.
  config.serve.max_wait_ms = 2.0  # That the first waits for others, when idle.
  config.serve.queue = 256  # Histories that may wait; beyond, 429.
  config.serve.deadline_ms = 30000.0  # Most that a request waits; then 504.
  # Prompts, less what all begin with, are padded to one; longer ones get 413.
  config.serve.prompt_buckets = (128, 256, 512)
  config.serve.max_k = 100  # Items in a list.
  config.serve.max_history = 100  # Items in a history; beyond, 413.
  config.serve.max_histories = 64  # Of a request.
  config.serve.max_body_kib = 1024
  config.serve.read_seconds = 10.0  # That a body may take to arrive.
  config.serve.drain_seconds = 30.0  # For those who are there when it stops.
  # Room for items that are added: -1 = an eighth of the catalogue, at least
  # 1,024.
  config.serve.spare_items = -1

  config.report = cfg()
  config.report.num_examples = 12
  # Titles that the base alone is asked to complete; 0 = none.
  config.report.contamination = 0
  config.report.compare = ""  # Other evaluated workdirs, "runs/a,runs/b".
  config.report.price_per_hour = 0.0  # Of the machine; adds what stages cost.

  # --mode=plan compiles for devices that need not be there.
  config.plan = cfg()
  config.plan.topology = "v5e:2x4"  # v6e:2x4 | v5p:4x4x4 | h100:1 | cpu:8
  config.plan.parts = ("train", "generate", "ground")
  config.plan.text_tokens = 288  # Of a prompt with its answer, on average.
  config.plan.prefix_tokens = 96  # With which all prompts begin; of those.
  config.plan.new_tokens = 32  # Decoded for a user, on average.
  config.plan.num_items = 0  # 0 = the prepared catalogue's.
  config.plan.memory_gib = 0.0  # Per device; 0 = the chip's.
  config.plan.search = True  # Find the largest train.micro_batch_size.
  config.plan.quick = False  # Compile with less effort: faster, upper bounds.

  config.mesh = cfg()
  config.mesh.data = -1  # -1 = what the devices leave.
  config.mesh.fsdp = 1
  config.mesh.tensor = 1
  return config


def variant(config: ml_collections.ConfigDict, arg: str):
  """Applies what follows the colon of `--config=configs/<name>.py:<arg>`.

  Args:
    config: the full configuration of a data set.
    arg: "" for the configuration as it is, "tiny" for a run of seconds with a
      tiny random model: it shows that everything works, not how well.

  Returns:
    The configuration, changed in place.

  Raises:
    ValueError: another word.
  """
  if arg not in ("", "tiny"):
    raise ValueError(f"config variant {arg!r}: only 'tiny' is known")
  if arg == "":
    return config
  config.model.arch.hidden_size = 32
  config.model.arch.intermediate_size = 64
  config.model.arch.num_hidden_layers = 2
  config.model.arch.num_attention_heads = 4
  config.model.arch.num_key_value_heads = 2
  config.pretrain.vocab_size = 384
  config.pretrain.num_steps = 4
  config.pretrain.batch_size = 8
  config.pretrain.max_length = 128
  config.data.num_train = 64
  config.data.num_valid = 24
  config.data.num_test = 24
  config.data.synthetic.num_users = 120
  config.data.synthetic.num_items = 150
  config.train.batch_size = 16
  config.train.micro_batch_size = 8
  config.train.num_epochs = 2
  config.train.warmup_steps = 2
  config.generate.num_beams = 2
  config.generate.max_new_tokens = 8
  config.generate.batch_size = 8
  config.embed.batch_size = 32
  config.ground.bootstrap_samples = 50
  config.ground.permutations = 1000
  config.cf.num_epochs = 2
  config.cf.hidden_size = 16
  return config
