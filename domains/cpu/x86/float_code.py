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
    00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000fb6870a0300
    00c6870a0300000083e03d0887600200000fb78762020000f7d0228760020000a83f740966818f600200008080c3e8c7ffff
    ffff2531ffffffe8bcffffffff252effffffe8b1ffffffff252bffffffe8a6ffffffff2528ffffffe89bffffffff2535ffff
    ffe890ffffffff2532ffffffe885ffffffff252fffffffe87affffffff252cffffffe86fffffffff2501ffffffe864ffffff
    e806000000ff25e9feffff0fb6872a030000a88074020c3083e03d098730030000c34981f830030000752a83fe4775255756
    525141504c8d442408488d35c9ffffff31d2b901000000ff15edfeffff4158595a5e5fff25d9feffffff15c3feffff8b8730
    03000089c1c1e90f888f2c030000c6870c0300000089c1c1e907f7d1f6c13f751483e03d88872a03000081a7b0000000fffe
    ffffc3c6872a03000000f787b0000000000100007512818fb00000000001000057ff159ffeffff5fc389b73003000057ffb7
    b00000004883ec08e886ffffff4883c408585ff7d02387b0000000a9000100007411488b3424488dbfb075ffffff2549feff
    ffc3f787b00000000001000074550fb6872a030000a88074020c3083e03d8b8f30030000c1e907f7d185c8753c0987300300
    00c6872a03000000574889fe488d3d9d250000b938070000f3a45ff6878900000001750d488dbfb075ffffff25effdffffff
    25c9fdffff57488d3571250000b938070000f3a45f098730030000c6872a03000000be1300000031d2ff25c7fdffff8b875c
    0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0
    dbe3d96c24f041db2941db28d9f0dfe041db38ddd8e9c90300008b875c0200008d480183e107c1e1044c8d8c0f70020000c1
    e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9fedfe041db38ddd8
    e97a0300008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f62020000
    83c93f66894c24f0dbe3d96c24f041db2941db28d9ffdfe041db38ddd8e92b0300008b875c0200008d480183e107c1e1044c
    8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9
    f8dfe041db38ddd8e9dc0200008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24
    f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9f5dfe041db38ddd8e98d0200008b875c0200008d48
    0183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24
    f041db2941db28d9fddfe041db38ddd8e93e0200008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d84
    0770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9f1dfe041db398b8f5c020000c6
    840f6402000001ffc183e107898f5c020000e9d80100008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c
    8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9f9dfe041db398b8f5c0200
    00c6840f6402000001ffc183e107898f5c020000e9720100008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0
    044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9f3dfe041db398b8f5c
    020000c6840f6402000001ffc183e107898f5c020000e90c0100008b875c0200008d480183e107c1e1044c8d8c0f70020000
    c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9f2dfe0f6c4040f
    85b9000000e9910000008b875c0200008d480183e107c1e1044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb7
    8f6202000083c93f66894c24f0dbe3d96c24f041db2941db28d9fbdfe0f6c404756aeb458b875c0200008d480183e107c1e1
    044c8d8c0f70020000c1e0044c8d840770020000d97c24f80fb78f6202000083c93f66894c24f0dbe3d96c24f041db2941db
    28d9f4dfe08b8f5c020000ffc983e107898f5c020000c6840f6402000000c1e104dbbc0f7002000041db38ddd8dbe2d96c24
    f889c181e1004700006681a760020000ffb866098f6002000083e03f088760020000c34c8d1d08090000440fb6d14f8d1cd3
    f30f6f06f30f6f12488b07488b5710f7c100010000750548984863d241ffd348894f089c5825d508000048898798000000c3
    4c8d1dc7180000440fb6d14f8d1cd3f30f6f06f30f6f12488b07488b5710f7c100010000750548984863d241ffd348894f08
    9c5825d508000048898798000000c34c8d1d86000000440fb6d14f8d1cd3f30f6f06f30f6f12488b07488b5710f7c1000100
    00750548984863d241ffd30f1187380300009c5825d508000048898798000000c34c8d1d42100000440fb6d14f8d1cd3f30f
    6f06f30f6f12488b07488b5710f7c100010000750548984863d241ffd30f1187380300009c5825d508000048898798000000
    c30f1f440000
    """
)
"""The listing, assembled, up to the tables at its end, which `tables` makes."""

LABELS: Final = {
    "new_fnstsw": 0xC4,
    "new_fwait": 0xCF,
    "new_fstenv": 0xDA,
    "new_fsave": 0xE5,
    "new_frstor": 0xF0,
    "new_fldenv": 0xFB,
    "new_fclex": 0x106,
    "new_fninit": 0x111,
    "new_fxrstor": 0x11C,
    "new_fxsave": 0x127,
    "merge_x87": 0x90,
    "merge_mxcsr": 0x137,
    "new_op3": 0x14E,
    "new_update": 0x187,
    "new_ldmxcsr": 0x1EB,
    "new_single_step": 0x228,
    "new_f2xm1": 0x2B9,
    "new_fsin": 0x308,
    "new_fcos": 0x357,
    "new_fprem": 0x3A6,
    "new_fprem1": 0x3F5,
    "new_fscale": 0x444,
    "new_fyl2x": 0x493,
    "new_fyl2xp1": 0x4F9,
    "new_fpatan": 0x55F,
    "new_fptan": 0x5C5,
    "new_fsincos": 0x618,
    "new_fxtract": 0x664,
    "new_pcmpestri": 0x6F9,
    "new_pcmpistri": 0x73A,
    "new_pcmpestrm": 0x77B,
    "new_pcmpistrm": 0x7BF,
    "saved": 0x2808,
}
"""Where the routines lie in the code."""


def tables() -> bytes:
    """The four comparisons with each immediate: estrm, estri, istrm, istri."""
    rows = []
    for opcode in (0x60, 0x61, 0x62, 0x63):
        rows += [bytes((0x66, 0x48, 0x0F, 0x3A, opcode, 0xC2, immediate, 0xC3)) for immediate in range(256)]
    return b"".join(rows)
