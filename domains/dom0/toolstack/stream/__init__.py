"""A domain as a stream of bytes, in Xen's own formats, as data: no guest, no file and no socket is known here.

    a file:   xl's header: the description in JSON          xl_file.py
              libxl's header and records                    libxl.py
                LIBXC_CONTEXT: libxc's headers and records  libxc.py, with a codec for each in page_data.py, pv_records.py
              END
              checksums, which Xen has not                  checksums.py

Records are framed alike in both (framing.py). What reads and writes them: `Source` and `Sink` (ends.py). Whatever is wrong with a
stream is a StreamError, one line that names the record at fault.
"""
