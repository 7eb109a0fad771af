//! Instructions that the compiled kernels do not use, in PTX written by hand.

mod common;

use common::Gpu;
use ptx_emulator::{FaultKind, Module};

/// A kernel `k(data)`: `body` finds the thread in `%t`, the address of its word in `%a`, the buffer in `%base`.
fn kernel(declarations: &str, body: &str) -> Module {
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 data) {{\n\
         .reg .b32 %t, %r<20>; .reg .b64 %base, %a, %rd<10>; .reg .pred %p<8>; .reg .f32 %f<8>; .reg .b16 %h<8>;\n\
         {declarations}\n\
         ld.param.u64 %base, [data];\nmov.u32 %t, %tid.x;\nmad.wide.u32 %a, %t, 4, %base;\n{body}\n}}\n"
    );
    Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Runs `body` in one block over the words of `input`; what it leaves there.
fn run(declarations: &str, body: &str, input: &[u32]) -> Vec<u32> {
    let mut gpu = Gpu::new(kernel(declarations, body));
    let data = gpu.words(input);
    gpu.run("k", 1, input.len() as u32, &[data.into()]);
    gpu.read_words(data, input.len())
}

#[test]
fn named_barriers_between_producers_and_consumers() {
    // Warp 0 fills a tile that warp 1 reads, twice: "full" is barrier 1, "empty" barrier 2. Warp 2 takes no part.
    let body = |empty: &str| {
        format!(
            "setp.ge.u32 %p1, %t, 64; @%p1 ret;
             and.b32 %r0, %t, 31; mul.lo.u32 %r1, %r0, 4; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
             xor.b32 %r3, %r0, 31; mul.lo.u32 %r3, %r3, 4; add.u32 %r3, %r3, %r2;
             mov.u32 %r4, 0; mov.u32 %r5, 0;
             setp.ge.u32 %p2, %t, 32; @%p2 bra CONSUME;
             PRODUCE:
             mad.lo.u32 %r6, %r4, 100, %r0; st.shared.u32 [%r1], %r6;
             bar.arrive 1, 64; {empty}
             add.u32 %r4, %r4, 1; setp.lt.u32 %p3, %r4, 2; @%p3 bra PRODUCE;
             bra DONE;
             CONSUME:
             bar.sync 1, 64; ld.shared.u32 %r6, [%r3]; add.u32 %r5, %r5, %r6; {}
             add.u32 %r4, %r4, 1; setp.lt.u32 %p3, %r4, 2; @%p3 bra CONSUME;
             DONE:
             st.global.u32 [%a], %r5; ret;",
            empty.replace("sync", "arrive")
        )
    };
    let tile = ".shared .align 4 .b8 tile[128];";
    let got = run(tile, &body("bar.sync 2, 64;"), &[7; 96]);
    assert!(got[..32].iter().all(|v| *v == 0) && got[64..].iter().all(|v| *v == 7));
    assert_eq!(got[32..64], (0..32).map(|l| 2 * (31 - l) + 100).collect::<Vec<_>>());
    // Without "empty" the producer overwrites what may not have been read.
    let mut gpu = Gpu::new(kernel(tile, &body("")));
    let data = gpu.words(&[7; 96]);
    let error = gpu.try_run("k", [1, 1, 1], [96, 1, 1], &[data.into()]).unwrap_err();
    let kinds = [FaultKind::Race, FaultKind::DivergentBarrier];
    assert!(kinds.contains(&error.fault().unwrap().kind), "{error}");
}

#[test]
fn barrier_reductions() {
    let body = "ld.global.u32 %r0, [%a]; setp.gt.u32 %p1, %r0, 60;
        barrier.sync.aligned 0;
        bar.red.popc.u32 %r1, 0, %p1; bar.red.or.pred %p2, 0, %p1; bar.red.and.pred %p3, 0, !%p1;
        selp.u32 %r2, 1000, 0, %p2; selp.u32 %r3, 10000, 0, %p3;
        add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; st.global.u32 [%a], %r1; ret;";
    assert_eq!(run("", body, &(0..64).collect::<Vec<_>>()), [1003; 64]);
    assert_eq!(run("", body, &[5; 64]), [10000; 64]);
}

#[test]
fn branch_tables() {
    let body = "and.b32 %r0, %t, 3; mov.u32 %r1, 0;
        TABLE: .branchtargets A, B, C, D;
        brx.idx %r0, TABLE;
        A: add.u32 %r1, %r1, 1;
        B: add.u32 %r1, %r1, 10;
        C: add.u32 %r1, %r1, 100; bra D;
        D: st.global.u32 [%a], %r1; ret;";
    let expected: Vec<_> = (0..32).map(|t| [111, 110, 100, 0][t % 4]).collect();
    assert_eq!(run("", body, &[0; 32]), expected);
}

#[test]
fn atomics_in_global_and_shared_memory() {
    let body = "mov.u32 %r0, count; setp.eq.u32 %p1, %t, 0; @%p1 st.shared.u32 [%r0], 5; bar.sync 0;
        atom.shared.add.u32 %r1, [%r0], %t; red.global.max.u32 [%base+4], %t; red.global.add.u32 [%base], 1;
        bar.sync 0; setp.eq.u32 %p1, %t, 9; @%p1 bra LAST; ret;
        LAST: atom.shared.cas.b32 %r2, [%r0], 2021, 1; st.global.u32 [%a], %r2; ret;";
    let got = run(".shared .align 4 .b8 count[4];", body, &[0; 64]);
    assert_eq!((got[0], got[1], got[9]), (64, 63, 5 + 63 * 64 / 2));
}

#[test]
fn carries_make_wide_sums() {
    // {r1, r0} = x * 2^32-ish + x, as two words with carry.
    let body = "ld.global.u32 %r0, [%a];
        add.cc.u32 %r1, %r0, 0xffffffff; addc.u32 %r2, 0, 0;
        sub.cc.u32 %r3, %r0, 5; subc.u32 %r4, 0, 0;
        shl.b32 %r2, %r2, 4; and.b32 %r4, %r4, 1; or.b32 %r2, %r2, %r4; st.global.u32 [%a], %r2; ret;";
    // x + (2^32 - 1) carries unless x is 0; x - 5 borrows below 5.
    assert_eq!(run("", body, &[0, 1, 5, u32::MAX]), [1, 17, 16, 16]);
}

#[test]
fn selection_and_fields() {
    let body = "ld.global.s32 %r0, [%a];
        slct.u32.s32 %r1, 100, 200, %r0; set.lt.u32.s32 %r2, %r0, 0; and.b32 %r2, %r2, 7;
        bfe.s32 %r3, %r0, 4, 4; bfind.u32 %r4, %r0; abs.s32 %r5, %r0;
        add.u32 %r1, %r1, %r2; mad.lo.s32 %r1, %r3, 1000, %r1;
        setp.lt.and.s32 %p1|%p2, %r0, 0, %p0; st.global.u32 [%a], %r1; ret;";
    let got: Vec<_> =
        run("", body, &[0, 0x70, 0xf0, -1i32 as u32]).into_iter().map(|v| v as i32).collect();
    assert_eq!(got, [100, 7100, -900, -1000 + 207]);
}

#[test]
fn sixteen_bit_integers_wrap() {
    let body = "ld.global.u32 %r0, [%a]; cvt.u16.u32 %h0, %r0;
        mul.lo.s16 %h1, %h0, 3; add.s16 %h1, %h1, -7; shr.s16 %h2, %h1, 2; setp.lt.s16 %p1, %h1, 0;
        cvt.s32.s16 %r1, %h2; selp.b32 %r2, 1, 0, %p1; shl.b32 %r2, %r2, 20; add.s32 %r1, %r1, %r2;
        mov.b32 %r3, {%h1, %h2}; mov.b32 {%h3, %h4}, %r3; setp.ne.s16 %p2, %h4, %h2; @%p2 trap;
        st.global.u32 [%a], %r1; ret;";
    let input = [0u32, 5, 20_000, 65_535];
    let expected = input.map(|x| {
        let v = (x as i16).wrapping_mul(3).wrapping_add(-7);
        (i32::from(v >> 2) + (i32::from(v < 0) << 20)) as u32
    });
    assert_eq!(run("", body, &input), expected);
}

#[test]
fn generic_addresses_find_their_space() {
    let body = ".local .align 4 .b8 mine[8];
        mov.u64 %rd0, tile; cvta.shared.u64 %rd1, %rd0; mov.u64 %rd2, mine; cvta.local.u64 %rd3, %rd2;
        mad.wide.u32 %rd1, %t, 4, %rd1; st.u32 [%rd1], %t; st.u32 [%rd3+4], 50; st.u32 [%a], 600;
        isspacep.shared %p1, %rd1; isspacep.local %p2, %rd3; isspacep.global %p3, %a;
        and.pred %p1, %p1, %p2; and.pred %p1, %p1, %p3; @!%p1 trap;
        ld.u32 %r0, [%rd1]; ld.u32 %r1, [%rd3+4]; ld.u32 %r2, [%a];
        add.u32 %r0, %r0, %r1; add.u32 %r0, %r0, %r2; st.global.u32 [%a], %r0; ret;";
    assert_eq!(
        run(".shared .align 8 .b8 tile[128];", body, &[0; 32]),
        (650..682).collect::<Vec<_>>()
    );
}

#[test]
fn stmatrix_and_ldmatrix_are_inverse() {
    let body = "mov.u32 %r9, tile; and.b32 %r0, %t, 7; mad.lo.u32 %r1, %r0, 16, %r9; ld.global.u32 %r2, [%a];
        stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};
        bar.warp.sync 0xffffffff;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r3}, [%r1];
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r4}, [%r1];
        xor.b32 %r3, %r3, %r2; @%p0 trap; setp.ne.u32 %p1, %r3, 0; @%p1 trap; st.global.u32 [%a], %r4; ret;";
    let words: Vec<u32> = (0..32).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect();
    let got = run(".shared .align 16 .b8 tile[128];", body, &words);
    // Element (r, c) has the value 8r + c; the transpose gives lane l elements (2(l%4), l/4) and the row below.
    let expected: Vec<_> =
        (0..32).map(|l| (l % 4 * 16 + l / 4) | (l % 4 * 16 + 8 + l / 4) << 16).collect();
    assert_eq!(got, expected);
}
