// kernel_tests [--quick] [PART]: runs the tests whose name contains PART, with fewer sizes where it
// is to be quick; prints facts, fails with status 1.
#include "alpage/kernel_names.h"
#include "check.h"

int main(int count, char** arguments) {
    std::string part;
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        if (argument == "--quick") check::quick = true;
        else part = argument;
    }
    std::cout << "instruction sets:";
    for (const std::string& name : alpage::kernel_names()) std::cout << " " << name;
    std::cout << "\n";
    int run = 0;
    for (const check::Test& test : check::tests()) {
        if (std::string(test.name).find(part) == std::string::npos) continue;
        const int64_t before = check::failed;
        test.run();
        ++run;
        std::cout << (check::failed == before ? "ok      " : "FAILED  ") << test.name << std::endl;
    }
    std::cout << run << " tests, " << check::passed << " checks passed, " << check::failed
              << " failed\n";
    return check::failed || !run;
}
