#define MUXTABLE_ISA baseline
#include "loops.inl"
