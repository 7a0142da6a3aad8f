/* The driver of a video device that there is not: what FFmpeg asks of descriptor 0 is answered here, whose memory has
 * pictures already (tests/service/test_devices.py). Loaded before the C library. What the kernel would not let through is
 * refused here too. After PICTURES of them it is unplugged. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 320, HEIGHT = 240, BYTES = WIDTH * HEIGHT * 2, APART = BYTES + 2048, BUFFERS = 4, PICTURES = 90 };

static unsigned waiting[64], first, last, taken;

static void describe(struct v4l2_format *format)
{
    struct v4l2_pix_format *picture = &format->fmt.pix;
    picture->width = WIDTH;
    picture->height = HEIGHT;
    picture->pixelformat = V4L2_PIX_FMT_YUYV;
    picture->field = V4L2_FIELD_NONE;
    picture->bytesperline = WIDTH * 2;
    picture->sizeimage = BYTES;
}

static int answer(unsigned long request, void *about)
{
    struct v4l2_buffer *buffer = about;
    const struct timespec interval = {0, 1000000000 / 30};
    struct timespec now;

    switch (request) {
    case VIDIOC_QUERYCAP:
        ((struct v4l2_capability *)about)->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    case VIDIOC_ENUMINPUT:
        if (((struct v4l2_input *)about)->index == 0)
            return 0;
        break;
    case VIDIOC_G_INPUT:
        *(int *)about = 0;
        return 0;
    case VIDIOC_S_INPUT:
    case VIDIOC_STREAMON:
    case VIDIOC_STREAMOFF:
        return 0;
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
        describe(about);
        return 0;
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
        struct v4l2_captureparm *capture = &((struct v4l2_streamparm *)about)->parm.capture;
        capture->capability = V4L2_CAP_TIMEPERFRAME;
        capture->timeperframe = (struct v4l2_fract){1, 30};
        return 0;
    }
    case VIDIOC_REQBUFS:
        ((struct v4l2_requestbuffers *)about)->count = BUFFERS;
        return 0;
    case VIDIOC_QUERYBUF:
        buffer->length = BYTES;
        buffer->m.offset = buffer->index * APART; /* whole pages */
        return 0;
    case VIDIOC_QBUF:
        waiting[last++ % 64] = buffer->index;
        return 0;
    case VIDIOC_DQBUF:
        if (taken == PICTURES) {
            errno = ENODEV;
            return -1;
        }
        do
            nanosleep(&interval, NULL);
        while (first == last);
        clock_gettime(CLOCK_MONOTONIC, &now);
        buffer->index = waiting[first++ % 64];
        buffer->bytesused = buffer->length = BYTES;
        buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        buffer->sequence = taken++;
        buffer->timestamp.tv_sec = now.tv_sec;
        buffer->timestamp.tv_usec = now.tv_nsec / 1000;
        return 0;
    }
    errno = EINVAL;
    return -1;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list given;
    void *about;
    int done;

    va_start(given, request);
    about = va_arg(given, void *);
    va_end(given);
    done = syscall(SYS_ioctl, fd, request, about);
    if (fd != 0 || _IOC_TYPE(request) != 'V' || errno != ENOTTY)
        return done;
    return answer(request, about);
}
