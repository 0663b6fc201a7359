#define MUXTABLE_ISA avx512
#include "loops.inl"
