"""The same small job on every mesh of a machine's devices, and compared.

world       what is computed with: made up, the same wherever it is made
programs    training, beams, embeddings, ranks, lists and collectives on a mesh
meshes      which meshes a number of devices makes
comparison  rows of a table: how far a mesh is from one device
surroundings  devices, memory, versions, folders that a job writes to
child       the same in another process, on forced CPU devices
"""
