"""Hot loops in C++ (hashing, table kernels, data order), each with a plain Python twin."""
