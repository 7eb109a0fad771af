//! AMX: the matrix unit of Intel's server processors since Sapphire Rapids. A tile register holds 16 rows
//! of 64 bytes, and one instruction multiplies 16 x 32 by 32 x 16 bf16 numbers into 16 x 16 f32 sums.
//!
//! Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Rows and columns of a tile of sums.
pub const TILE: usize = 16;
/// Values of k in a tile.
pub const TILE_K: usize = 32;

/// Whether the processor has AMX with bf16 and the system lets this process use it.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| cfg!(target_os = "linux") && has_amx_bf16() && request_permission())
}

fn has_amx_bf16() -> bool {
    if __cpuid(0).eax < 7 {
        return false;
    }
    let (amx_bf16, amx_tile) = (1 << 22, 1 << 24);
    __cpuid_count(7, 0).edx & (amx_bf16 | amx_tile) == amx_bf16 | amx_tile
}

/// Asks Linux to save the tiles at context switches: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA),
/// once for all threads.
fn request_permission() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the system call reads and writes no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The shape of the eight tiles: palette 1, 16 rows of 64 bytes each.
#[repr(C, align(64))]
struct Config([u8; 64]);

const CONFIG: Config = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Config(bytes)
};

/// The tiles of this thread, configured; released when dropped, which frees the processor from saving them.
pub struct Tiles {
    // A thread's own registers.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Tiles {
    /// Configures the tiles of this thread. `None` where there are none.
    pub fn configure() -> Option<Self> {
        if !available() {
            return None;
        }
        // SAFETY: the processor has AMX and the system permits it; 64 bytes are read from 64.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
        Some(Self { _not_send: std::marker::PhantomData })
    }

    /// sums [32, 32] = a [32, K] · b [K, 32], where `a0`, `a1` are the upper and lower 16 rows and `b0`,
    /// `b1` the left and right 16 columns, each packed tile after tile of K: a tile of `a` is 16 rows of
    /// 32 values, a tile of `b` 16 pairs of rows of 16 (even row, odd row) pairs.
    pub fn multiply(&self, a: [&[u16]; 2], b: [&[u16]; 2], sums: &mut [f32; 4 * TILE * TILE]) {
        const TILE_LEN: usize = TILE * TILE_K;
        let tiles = a[0].len() / TILE_LEN;
        assert!(tiles > 0 && [a[0], a[1], b[0], b[1]].iter().all(|p| p.len() == tiles * TILE_LEN));
        // SAFETY: each pointer advances by one tile of 1 KiB per step, `tiles` steps in all, which is the
        // length asserted above; the sums are four tiles of 1 KiB, as the array's type says.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a0} + {stride}]",
                "tileloadd tmm6, [{b0} + {stride}]",
                "tileloadd tmm7, [{b1} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {tiles}",
                "jnz 2b",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 1024], tmm1",
                "tilestored [{sums} + {stride} + 2048], tmm2",
                "tilestored [{sums} + {stride} + 3072], tmm3",
                a0 = inout(reg) a[0].as_ptr() => _,
                a1 = inout(reg) a[1].as_ptr() => _,
                b0 = inout(reg) b[0].as_ptr() => _,
                b1 = inout(reg) b[1].as_ptr() => _,
                tiles = inout(reg) tiles => _,
                sums = in(reg) sums.as_mut_ptr(),
                stride = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: this thread's tiles were configured by `configure`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
