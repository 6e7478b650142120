"""Machine code for what Unicorn leaves undone in floating point and in SSE4.2's comparisons of strings: float_listing's bytes.

`float_unit` puts these routines in the place of functions of Unicorn's. They get `env`, the address of the CPUX86State, in
rdi, as those do, and touch nothing else, so one copy serves every Unicorn of a process. The tests assemble the listing and
compare.

    x87     softfloat gathers exceptions in fp_status; whatever reads or changes the status word needs them there (merge_x87).
            What Unicorn computes in double precision is computed by the host's own x87 unit, under the guest's control word.
    SSE     softfloat gathers exceptions in sse_status. They go into MXCSR where the guest reads it (merge_mxcsr), and back
            when it loads it (new_update), with FTZ, which Unicorn puts into the wrong structure.
    #XM     While an exception is unmasked, HF_TF makes every instruction a block of its own that ends in new_single_step:
            a bit of hflags which Unicorn itself only takes from EFLAGS.TF, so the guest does not see it. The state before
            each instruction is kept, and one that raised an unmasked exception is undone: a CPU does not do it at all.
    DE      (denormal operand) is not there: softfloat does not know it.
"""

from typing import Final

HF_TF: Final = 0x100
"""Of hflags: every instruction is a block of its own."""

CODE: Final = bytes.fromhex(
    """
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    00000fb6870a030000c6870a0300000083e03d0887600200000fb78762020000f7d0228760020000a83f740966818f600200
    008080c3e8c7ffffffff2529ffffffe8bcffffffff2526ffffffe8b1ffffffff2523ffffffe8a6ffffffff2520ffffffe89b
    ffffffff252dffffffe890ffffffff252affffffe885ffffffff2527ffffffe87affffffff2524ffffffe86fffffffff25f9
    feffffe864ffffffe806000000ff25e1feffff0fb6872a030000a88074020c3083e03d098730030000c34981f83003000075
    2a83fe4775255756525141504c8d442408488d35c9ffffff31d2b901000000ff15e5feffff4158595a5e5fff25d1feffffff
    15bbfeffff8b873003000089c1c1e90f888f2c030000c6870c0300000089c1c1e907f7d1f6c13f752783e03d88872a030000
    f787b000000000010000743781a7b0000000fffeffffc605b1feffff01c3c6872a03000000f787b000000000010000751281
    8fb00000000001000057ff1584feffff5fc389b73003000057ffb7b00000004883ec08e873ffffff4883c408585ff7d02387
    b0000000a9000100007411488b3424488dbfb075ffffff252efeffffc3f787b0000000000100007512803d3afeffff00745e
    c60531feffff00eb3f0fb6872a030000a88074020c3083e03d8b8f30030000c1e907f7d185c8753c098730030000c6872a03
    000000574889fe488d3db0250000b938070000f3a45ff6878900000001750d488dbfb075ffffff25c2fdffffff259cfdffff
    57488d3584250000b938070000f3a45f098730030000c6872a03000000be1300000031d2ff259afdfffff787b00000000000
    20007409f687890000000175bbc38b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c
    24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9f0dfe041db38ddd8e9c90300008b875c0200008d
    480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c
    24f041db2941db28d9fedfe041db38ddd8e97a0300008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d
    840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9ffdfe041db38ddd8e92b0300
    008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66
    894c24f0dbe3d96c24f041db2941db28d9f8dfe041db38ddd8e9dc0200008b875c0200008d480183e107c1e1044c8d8c0f70
    020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9f5dfe041
    db38ddd8e98d0200008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f
    6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9fddfe041db38ddd8e93e0200008b875c0200008d480183e107
    c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db29
    41db28d9f1dfe041db398b8f5c020000c6840f6402000001ffc183e107898f5c020000e9d80100008b875c0200008d480183
    e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041
    db2941db28d9f9dfe041db398b8f5c020000c6840f6402000001ffc183e107898f5c020000e9720100008b875c0200008d48
    0183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24
    f041db2941db28d9f3dfe041db398b8f5c020000c6840f6402000001ffc183e107898f5c020000e90c0100008b875c020000
    8d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d9
    6c24f041db2941db28d9f2dfe0f6c4040f85b9000000e9910000008b875c0200008d480183e107c1e1044c8d8c0f70020000
    c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9fbdfe0f6c40475
    6aeb458b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c9
    3f66894c24f0dbe3d96c24f041db2941db28d9f4dfe08b8f5c020000ffc983e107898f5c020000c6840f6402000000c1e104
    dbbc0f7002000041db38ddd8dbe2d96c24f889c181e1004700006681a760020000ffb866098f6002000083e03f0887600200
    00c34c8d1d05090000440fb6d14f8d1cd3f30f6f06f30f6f12488b07488b5710f7c100010000750548984863d241ffd34889
    4f089c5825d508000048898798000000c34c8d1dc4180000440fb6d14f8d1cd3f30f6f06f30f6f12488b07488b5710f7c100
    010000750548984863d241ffd348894f089c5825d508000048898798000000c34c8d1d83000000440fb6d14f8d1cd3f30f6f
    06f30f6f12488b07488b5710f7c100010000750548984863d241ffd30f1187380300009c5825d508000048898798000000c3
    4c8d1d3f100000440fb6d14f8d1cd3f30f6f06f30f6f12488b07488b5710f7c100010000750548984863d241ffd30f118738
    0300009c5825d508000048898798000000c36690
    """
)
"""The listing, assembled, up to the tables at its end, which `tables` makes."""

LABELS: Final = {
    "new_fnstsw": 0xCC,
    "new_fwait": 0xD7,
    "new_fstenv": 0xE2,
    "new_fsave": 0xED,
    "new_frstor": 0xF8,
    "new_fldenv": 0x103,
    "new_fclex": 0x10E,
    "new_fninit": 0x119,
    "new_fxrstor": 0x124,
    "new_fxsave": 0x12F,
    "merge_x87": 0x98,
    "merge_mxcsr": 0x13F,
    "new_op3": 0x156,
    "new_update": 0x18F,
    "new_ldmxcsr": 0x206,
    "new_single_step": 0x243,
    "new_rechecking_single_step": 0x2E6,
    "new_f2xm1": 0x2FC,
    "new_fsin": 0x34B,
    "new_fcos": 0x39A,
    "new_fprem": 0x3E9,
    "new_fprem1": 0x438,
    "new_fscale": 0x487,
    "new_fyl2x": 0x4D6,
    "new_fyl2xp1": 0x53C,
    "new_fpatan": 0x5A2,
    "new_fptan": 0x608,
    "new_fsincos": 0x65B,
    "new_fxtract": 0x6A7,
    "new_pcmpestri": 0x73C,
    "new_pcmpistri": 0x77D,
    "new_pcmpestrm": 0x7BE,
    "new_pcmpistrm": 0x802,
    "leaving": 0x90,
    "saved": 0x2848,
}
"""Where the routines lie in the code."""


def tables() -> bytes:
    """The four comparisons with each immediate: estrm, estri, istrm, istri."""
    rows = []
    for opcode in (0x60, 0x61, 0x62, 0x63):
        rows += [bytes((0x66, 0x48, 0x0F, 0x3A, opcode, 0xC2, immediate, 0xC3)) for immediate in range(256)]
    return b"".join(rows)
