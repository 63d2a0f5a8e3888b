// Which instruction sets this machine runs.
#include <stdexcept>
#include <string>

#if defined(ALPAGE_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(ALPAGE_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "alpage/kernel_names.h"
#include "kernels/kernels.h"

namespace alpage {
namespace {

#ifdef ALPAGE_X86
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

bool is_amd() {
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
}
#elif defined(ALPAGE_ARM64)
#if defined(__linux__)
// The bits' numbers are part of the kernel's interface; older headers do not name them all.
bool has_neon() { return getauxval(AT_HWCAP) >> 20 & 1; }                            // ASIMDDP
bool has_neon_i8mm() { return has_neon() && (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }  // I8MM
#elif defined(__APPLE__)
bool has_feature(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_neon() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_neon_i8mm() { return has_neon() && has_feature("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_neon() { return false; }  // this system is not asked yet: plain code runs everywhere
bool has_neon_i8mm() { return false; }
#endif
#endif

struct Choice {
    const Kernels& kernels;
    bool (*runs)();
    bool (*best)() = [] { return true; };  // whether it is better here than those before it
};

// The plainest first.
constexpr Choice choices[] = {
    {scalar_kernels, [] { return true; }},
#ifdef ALPAGE_X86
    {avx2_kernels, has_avx2},
    {avx512_kernels, has_avx512},
    {avx512_direct_kernels, has_avx512, is_amd},
#elif defined(ALPAGE_ARM64)
    {neon_kernels, has_neon},
    {neon_i8mm_kernels, has_neon_i8mm},
#endif
};

}  // namespace

std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    for (const Choice& choice : choices) {
        if (choice.runs()) names.insert(choice.best() ? names.end() : names.end() - 1,
                                        choice.kernels.name);
    }
    return names;
}

const Kernels& select_kernels(const char* name) {
    const std::string wanted = *name ? name : kernel_names().back();
    for (const Choice& choice : choices) {
        if (wanted != choice.kernels.name) continue;
        if (!choice.runs()) throw std::runtime_error("this machine does not run " + wanted);
        return choice.kernels;
    }
    throw std::invalid_argument("unknown instruction set " + wanted);
}

}  // namespace alpage
