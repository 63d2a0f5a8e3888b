// Which instruction sets this machine runs.
#include <stdexcept>
#include <string>

#include "alpage/kernel_names.h"
#include "kernels/kernels.h"

namespace alpage {

std::vector<std::string> kernel_names() {
    std::vector<std::string> names{scalar_kernels.name};
#ifdef ALPAGE_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    if (avx2) names.push_back(avx2_kernels.name);
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni")) {
        names.push_back(avx512_kernels.name);
    }
#endif
    return names;
}

const Kernels& select_kernels(const char* name) {
    const std::vector<std::string> names = kernel_names();
    const std::string wanted = *name ? name : names.back();
    bool runs = false;
    for (const std::string& known : names) runs = runs || wanted == known;
    if (wanted == scalar_kernels.name) return scalar_kernels;
#ifdef ALPAGE_X86
    for (const Kernels* kernels : {&avx2_kernels, &avx512_kernels}) {
        if (wanted != kernels->name) continue;
        if (!runs) throw std::runtime_error("this machine does not run " + wanted);
        return *kernels;
    }
#endif
    throw std::invalid_argument("unknown instruction set " + wanted);
}

}  // namespace alpage
