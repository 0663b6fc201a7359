#define MUXTABLE_ISA avx2
#include "loops.inl"
