/* The emulator's NVTX: ranges are written down, in runtime.cpp. */
#ifndef TEST_EMU_NVTX_H
#define TEST_EMU_NVTX_H

#ifdef __cplusplus
extern "C" {
#endif

int nvtxRangePushA(const char *message);
int nvtxRangePop(void);

/* What has been pushed and popped since the last call, as "a(b()c())"; valid until the next. */
const char *emu_take_ranges(void);

#ifdef __cplusplus
}
#endif

#endif
