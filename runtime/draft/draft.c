#include "runtime/draft/draft.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/draft/vispec.h"
#include "runtime/mem.h"

/* ---- the kind `none`: no seat drafts, so there are no rows and nothing to carry ---------------
 */

static void none_propose(struct draft *d, struct stream *s, const struct draft_round *r)
{
    (void)d;
    (void)s;
    (void)r;
}

static void none_close(struct draft *d)
{
    free(d);
}

static const struct draft_kind none_kind = {
    .name = "none", .propose = none_propose, .close = none_close};

static struct draft *none_new(void)
{
    struct draft *d = xcalloc(1, sizeof(*d));
    d->kind = &none_kind;
    d->image_rows = IMAGE_ROWS_NONE;
    return d;
}

/* ---- interface ------------------------------------------------------------------------------ */

int draft_open(struct draft **out, struct device *dev, const char *dir, const struct lm *target,
               const struct draft_limits *limits, struct error *err)
{
    if (strcmp(dir, "none") != 0) return vispec_open(out, dev, dir, target, limits, err);
    *out = none_new();
    return 0;
}

void draft_close(struct draft *d)
{
    if (d) d->kind->close(d);
}

int draft_n_image_vectors(const struct draft *d, int n)
{
    return (d->image_rows == IMAGE_ROWS_ALL ? n : 0) + d->n_image_outputs;
}
