/* What the files of runtime/engine share about an open engine. */
#ifndef RUNTIME_ENGINE_INTERNAL_H
#define RUNTIME_ENGINE_INTERNAL_H

#include "runtime/engine/engine.h"
#include "runtime/model/model.h"

/* The engine's model; its text and image parts may be used by any thread. */
const struct model *engine_model(const struct engine *e);

#endif
