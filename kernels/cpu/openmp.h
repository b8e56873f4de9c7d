/* The few OpenMP functions in use (omp.h comes with the compiler; clang-tidy's brings none), and
 * how the threads of a parallel region share a range. */
#ifndef KERNELS_CPU_OPENMP_H
#define KERNELS_CPU_OPENMP_H

void omp_set_num_threads(int n);
int omp_get_max_threads(void);
int omp_get_num_threads(void);
int omp_get_thread_num(void);

struct share {
    int first, end;
};

/* The calling thread's part of 0 .. n - 1: one run, as even as can be. */
static inline struct share thread_share(int n)
{
    long long n_threads = omp_get_num_threads(), thread = omp_get_thread_num();
    return (struct share){(int)(n * thread / n_threads), (int)(n * (thread + 1) / n_threads)};
}

#endif
