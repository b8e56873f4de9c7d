/* For a device whose results must not depend on chance: the program then runs every test several
 * times, each time in a fresh child, and fails it unless all runs end with the same digest.
 *
 * test.c has these functions for one run; a file of the program that defines them,
 * test/emu/memory.cpp, has its own in their place. */
#ifndef TEST_RUNS_H
#define TEST_RUNS_H

#include <stdint.h>

int test_n_runs(void);
void test_begin_run(int run); /* in the child, before the test */
uint64_t test_digest(void);   /* in the child, behind it */

#endif
