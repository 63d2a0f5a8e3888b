// Which instruction sets this machine runs.
#pragma once

#include <string>
#include <vector>

namespace alpage {

std::vector<std::string> kernel_names();  // the plainest first, the default last

}  // namespace alpage
