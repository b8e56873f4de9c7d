/* The first frame of a GIF, with giflib.  Nothing behind it is read.
 *
 * A frame may cover a part of the canvas only; the rest is white, as browsers on a white page show
 * it, and so is what the frame leaves transparent. */
#include <gif_lib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image/decoders.h"
#include "runtime/mem.h"

struct decoder {
    const uint8_t *bytes;
    size_t len, pos;
    bool has_ended; /* somebody wanted more bytes than there are */
    const struct image_limits *limits;
    struct error *err;
    GifFileType *gif;
    int transparent; /* colour, or NO_TRANSPARENT_COLOR */
    struct picture picture;
};

static int on_read(GifFileType *gif, GifByteType *to, int len)
{
    struct decoder *d = gif->UserData;
    size_t left = d->len - d->pos;
    d->has_ended = (size_t)len > left;
    if (d->has_ended) return 0;
    memcpy(to, d->bytes + d->pos, (size_t)len);
    d->pos += (size_t)len;
    return len;
}

static int fail(const struct decoder *d)
{
    return d->has_ended ? decode_ends_early("GIF", d->len, d->err)
                        : decode_damaged("GIF", d->pos, d->len, d->err);
}

static int read_extension(struct decoder *d)
{
    int code;
    GifByteType *block; /* its length, then its bytes */
    if (DGifGetExtension(d->gif, &code, &block) != GIF_OK) return -1;
    while (block) {
        GraphicsControlBlock control;
        if (code == GRAPHICS_EXT_FUNC_CODE &&
            DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK)
            d->transparent = control.TransparentColor;
        if (DGifGetExtensionNext(d->gif, &block) != GIF_OK) return -1;
    }
    return 0;
}

/* Reads up to the first frame's pixels. */
static int find_frame(struct decoder *d)
{
    for (;;) {
        GifRecordType type;
        if (DGifGetRecordType(d->gif, &type) != GIF_OK) return -1;
        if (type == IMAGE_DESC_RECORD_TYPE) return DGifGetImageDesc(d->gif) == GIF_OK ? 0 : -1;
        if (type != EXTENSION_RECORD_TYPE || read_extension(d) != 0) return -1;
    }
}

/* -1: the row has a colour that the file does not define. */
static int colour_row(const struct decoder *d, const ColorMapObject *map, const uint8_t *row,
                      uint8_t *rgb)
{
    for (int x = 0; x < d->gif->Image.Width; x++, rgb += 3) {
        if (row[x] == d->transparent) continue;
        if (row[x] >= map->ColorCount) return -1;
        const GifColorType *colour = &map->Colors[row[x]];
        rgb[0] = colour->Red;
        rgb[1] = colour->Green;
        rgb[2] = colour->Blue;
    }
    return 0;
}

static int draw(struct decoder *d)
{
    static const struct pass {
        int first, step;
    } whole[] = {{0, 1}}, interlaced[] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}};
    const GifImageDesc *frame = &d->gif->Image;
    const ColorMapObject *map = frame->ColorMap ? frame->ColorMap : d->gif->SColorMap;
    if (!map || frame->Width < 1) return -1;
    const struct pass *passes = frame->Interlace ? interlaced : whole;
    int n_passes = frame->Interlace ? 4 : 1;
    uint8_t *row = xcalloc((size_t)frame->Width, 1);
    int result = 0;
    for (int pass = 0; pass < n_passes; pass++)
        for (int y = passes[pass].first; y < frame->Height && result == 0; y += passes[pass].step) {
            size_t at = (size_t)(frame->Top + y) * (size_t)d->picture.width + (size_t)frame->Left;
            if (DGifGetLine(d->gif, row, frame->Width) != GIF_OK ||
                colour_row(d, map, row, d->picture.rgb + at * 3) != 0)
                result = -1;
        }
    free(row);
    return result;
}

static int run(struct decoder *d)
{
    int why;
    d->gif = DGifOpen(d, on_read, &why);
    if (!d->gif && why == D_GIF_ERR_NOT_ENOUGH_MEM) abort(); /* see runtime/mem.h */
    if (!d->gif || find_frame(d) != 0) return fail(d);

    /* Some writers leave the canvas at 0 x 0 or smaller than the frame. */
    const GifImageDesc *frame = &d->gif->Image;
    int right = frame->Left + frame->Width, bottom = frame->Top + frame->Height;
    int width = d->gif->SWidth > right ? d->gif->SWidth : right;
    int height = d->gif->SHeight > bottom ? d->gif->SHeight : bottom;
    if (decode_check_size(width, height, d->limits, d->err) != 0) return -1;
    picture_init(&d->picture, width, height);
    memset(d->picture.rgb, 255, (size_t)width * (size_t)height * 3);
    return draw(d) == 0 ? 0 : fail(d);
}

int decode_gif(const uint8_t *bytes, size_t len, const struct image_limits *limits,
               struct picture *out, struct error *err)
{
    struct decoder d = {.bytes = bytes,
                        .len = len,
                        .limits = limits,
                        .err = err,
                        .transparent = NO_TRANSPARENT_COLOR};
    int result = run(&d);
    if (d.gif) DGifCloseFile(d.gif, NULL);
    if (result == 0)
        *out = d.picture;
    else
        picture_done(&d.picture);
    return result;
}
