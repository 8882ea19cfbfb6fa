package jail

import "syscall"

var refusedHere = []uint32{
	321,      // bpf
	323,      // userfaultfd
	313,      // finit_module
	320,      // kexec_file_load
	303, 304, // name_to_handle_at, open_by_handle_at
	syscall.SYS_MODIFY_LDT, syscall.SYS_IOPL, syscall.SYS_IOPERM,
}
