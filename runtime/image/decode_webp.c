/* WebP with libwebp: lossy and lossless, and the first frame of an animation.
 *
 * The demuxer finds the frame and the EXIF chunk in a file that is whole; it checks that the frame
 * lies on the canvas.  The canvas is white where the frame does not cover it. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include "runtime/image/decoders.h"
#include "runtime/image/exif.h"
#include "runtime/mem.h"

/* Some writers put a JPEG's marker before the chunk's TIFF data. */
#define EXIF_HEADER     "Exif\0"
#define EXIF_HEADER_LEN 6

/* Composites the frame on the canvas.  -1: its data are damaged. */
static int draw(const WebPIterator *frame, const struct picture *canvas)
{
    size_t stride = (size_t)canvas->width * 3;
    size_t start = (size_t)frame->y_offset * stride + (size_t)frame->x_offset * 3;
    size_t width = (size_t)frame->width, height = (size_t)frame->height;
    const uint8_t *bytes = frame->fragment.bytes;
    size_t len = frame->fragment.size;
    uint8_t *to = canvas->rgb + start;
    if (!frame->has_alpha) {
        size_t room = (size_t)canvas->height * stride - start;
        return WebPDecodeRGBInto(bytes, len, to, room, (int)stride) ? 0 : -1;
    }
    uint8_t *rgba = xrealloc(NULL, width * height * 4);
    bool is_good = WebPDecodeRGBAInto(bytes, len, rgba, width * height * 4, (int)width * 4) != NULL;
    for (size_t y = 0; y < height && is_good; y++)
        decode_composite(to + y * stride, rgba + y * width * 4, width);
    free(rgba);
    return is_good ? 0 : -1;
}

static int stored_orientation(const WebPDemuxer *demux)
{
    WebPChunkIterator chunk;
    if (!WebPDemuxGetChunk(demux, "EXIF", 1, &chunk)) return 1;
    const uint8_t *tiff = chunk.chunk.bytes;
    size_t len = chunk.chunk.size;
    if (len >= EXIF_HEADER_LEN && memcmp(tiff, EXIF_HEADER, EXIF_HEADER_LEN) == 0) {
        tiff += EXIF_HEADER_LEN;
        len -= EXIF_HEADER_LEN;
    }
    int orientation = exif_orientation(tiff, len);
    WebPDemuxReleaseChunkIterator(&chunk);
    return orientation;
}

static int decode(const WebPDemuxer *demux, WebPDemuxState state, const WebPData *file,
                  const struct image_limits *limits, struct picture *out, struct error *err)
{
    if (state == WEBP_DEMUX_PARSING_HEADER) return decode_ends_early("WebP", file->size, err);
    if (!demux) return decode_damaged("WebP", 0, file->size, err);
    uint32_t width = WebPDemuxGetI(demux, WEBP_FF_CANVAS_WIDTH);
    uint32_t height = WebPDemuxGetI(demux, WEBP_FF_CANVAS_HEIGHT);
    if (decode_check_size(width, height, limits, err) != 0) return -1;
    if (state != WEBP_DEMUX_DONE) return decode_ends_early("WebP", file->size, err);

    WebPIterator frame;
    if (!WebPDemuxGetFrame(demux, 1, &frame)) return decode_damaged("WebP", 0, file->size, err);
    struct picture canvas;
    picture_init(&canvas, (int)width, (int)height);
    memset(canvas.rgb, 255, (size_t)width * height * 3);
    int result = draw(&frame, &canvas);
    size_t at = (size_t)(frame.fragment.bytes - file->bytes);
    WebPDemuxReleaseIterator(&frame);
    if (result != 0) {
        picture_done(&canvas);
        return decode_damaged("WebP", at, file->size, err);
    }
    picture_orient(&canvas, stored_orientation(demux));
    *out = canvas;
    return 0;
}

int decode_webp(const uint8_t *bytes, size_t len, const struct image_limits *limits,
                struct picture *out, struct error *err)
{
    WebPData file = {bytes, len};
    WebPDemuxState state;
    WebPDemuxer *demux = WebPDemuxPartial(&file, &state);
    int result = decode(demux, state, &file, limits, out, err);
    WebPDemuxDelete(demux);
    return result;
}
