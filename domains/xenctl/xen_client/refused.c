/*
 * What programs open beside libxencall, and have no use for with the commands that docs/xl.md lists. xl opens libxendevicemodel
 * at once, so that has to succeed.
 */
#include <errno.h>
#include <stddef.h>

static char handle;

/* --- libxendevicemodel: there are no device models ----------------------------------------------- */

void *xendevicemodel_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return &handle;
}

int xendevicemodel_close(void *dmod)
{
    (void)dmod;
    return 0;
}

/* --- libxenevtchn, libxengnttab: not here, and those of a Xen that the host itself has are none of the machine's ------------- */

static void *not_there(void)
{
    errno = ENODEV;
    return NULL;
}

void *xenevtchn_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return not_there();
}

void *xengnttab_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return not_there();
}

void *xengntshr_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return not_there();
}
