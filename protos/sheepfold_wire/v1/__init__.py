"""Protocol sheepfold.v1: the .proto files and the stubs generated from them (`make protos`)."""
