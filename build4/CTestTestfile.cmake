# CMake generated Testfile for 
# Source directory: /tmp/wt/bench
# Build directory: /tmp/wt/bench/build4
# 
# This file includes the relevant testing commands required for 
# testing this directory and lists subdirectories to be tested as well.
subdirs("tests/cpp")
