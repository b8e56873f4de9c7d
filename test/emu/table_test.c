#include "kernels/cpu/cpu.h"
#include "test/kernels.h"
#include "test/test.h"

typedef void (*operation)(void);

/* All members of struct ops behind `act` are pointers to functions. */
enum { FIRST = offsetof(struct ops, pack), N = (sizeof(struct ops) - FIRST) / sizeof(operation) };

static operation operation_of(const struct ops *ops, int i)
{
    operation f;
    memcpy(&f, (const char *)ops + FIRST + (size_t)i * sizeof(f), sizeof(f));
    return f;
}

TEST(every_operation_of_the_device_is_there_and_its_own)
{
    struct kernels k;
    kernels_open(&k);
    for (int i = 0; i < N; i++) {
        if (!operation_of(k.ops, i)) test_fail(__FILE__, __LINE__, "operation %d is missing", i);
        for (int j = 0; j < N; j++) {
            if (operation_of(k.ops, i) == operation_of(&cpu_ops, j))
                test_fail(__FILE__, __LINE__, "operation %d is the CPU's %d", i, j);
            if (i != j && operation_of(k.ops, i) == operation_of(k.ops, j))
                test_fail(__FILE__, __LINE__, "operations %d and %d are one", i, j);
        }
    }
    kernels_close(&k);
}
