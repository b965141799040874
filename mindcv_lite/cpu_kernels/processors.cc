// How many processors the operators share their work out among.
#include "parallel.h"

extern "C" void use_processors(int count) { most_parts = count; }
