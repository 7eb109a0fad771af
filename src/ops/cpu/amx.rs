//! AMX: the matrix unit of Intel's server processors since Sapphire Rapids. A tile register holds 16 rows
//! of 64 bytes, and one instruction multiplies 16 x 32 by 32 x 16 bf16 numbers into 16 x 16 f32 sums.
//!
//! Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use super::depth::{Depth, Sums};
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Bytes of a tile.
const TILE_BYTES: usize = 1024;

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

    /// sums [32, 32] = (plus what they held, if `add`) the products of planes that `depth` lists, of two
    /// panels of A and two of B.
    #[expect(clippy::too_many_lines, reason = "registers must be named where they are used")]
    pub fn multiply(&self, depth: &Depth, a: &[u16], b: &[u16], add: bool, sums: &mut Sums) {
        let [a_panel, b_panel] = depth.panels().map(|values| 2 * values);
        assert!(size_of_val(a) == 2 * a_panel && size_of_val(b) == 2 * b_panel);
        assert!(
            depth.tiles > 0 && depth.products[0] > 0 && depth.products.len() == depth.planes[1]
        );
        assert!(depth.products.iter().all(|&count| count <= depth.planes[0]));
        let std::ops::Range { start, end } = depth.products.as_ptr_range();
        let a_step = depth.planes[0] * TILE_BYTES;
        let plan = Plan { a_panel, a_step, b_panel, start, end };
        // SAFETY: for each operand, `tiles` steps of all its planes fill a panel, two panels are there, as
        // asserted, and so are the planes. The sums are four tiles of 1 KiB.
        unsafe {
            asm!(
                "test {x}, {x}",
                "jz 5f",
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 1024]",
                "tileloadd tmm2, [{sums} + {stride} + 2048]",
                "tileloadd tmm3, [{sums} + {stride} + 3072]",
                "jmp 2f",
                "5:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:", // a tile of k
                "mov {planes}, [{plan} + 24]",
                "3:", // a plane of B, with `count` planes of A
                "mov {count}, [{planes}]",
                "mov {x}, {b}",
                "tileloadd tmm6, [{x} + {stride}]",
                "add {x}, [{plan} + 16]",
                "tileloadd tmm7, [{x} + {stride}]",
                "mov {x}, {a}",
                "4:",
                "tileloadd tmm4, [{x} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "add {x}, [{plan}]",
                "tileloadd tmm5, [{x} + {stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "sub {x}, [{plan}]",
                "add {x}, 1024",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {count}",
                "jnz 4b",
                "add {b}, 1024",
                "add {planes}, 8",
                "cmp {planes}, [{plan} + 32]",
                "jne 3b",
                "add {a}, [{plan} + 8]",
                "dec {tiles}",
                "jnz 2b",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 1024], tmm1",
                "tilestored [{sums} + {stride} + 2048], tmm2",
                "tilestored [{sums} + {stride} + 3072], tmm3",
                x = inout(reg) usize::from(add) => _,
                planes = out(reg) _,
                count = out(reg) _,
                plan = in(reg) &plan,
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                tiles = inout(reg) depth.tiles => _,
                sums = in(reg) sums.as_mut_ptr(),
                stride = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// What the loop reads as it goes, at the offsets that it names.
#[repr(C)]
struct Plan {
    a_panel: usize,
    a_step: usize,
    b_panel: usize,
    start: *const usize,
    end: *const usize,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: this thread's tiles were configured by `configure`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
