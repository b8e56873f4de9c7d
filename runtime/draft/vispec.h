/* ViSpec, and EAGLE-2, which is ViSpec without the adaptor and img_fc: one decoder layer over
 * fc([embedding ; img_fc([hidden ; g])]), whose output goes through the target's lm_head. */
#ifndef RUNTIME_DRAFT_VISPEC_H
#define RUNTIME_DRAFT_VISPEC_H

#include "runtime/draft/draft.h"

int vispec_open(struct draft **out, struct device *dev, const char *dir, const struct lm *target,
                const struct draft_limits *limits, struct error *err);

#endif
