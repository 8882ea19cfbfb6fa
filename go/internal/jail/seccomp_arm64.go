package jail

var refusedHere = []uint32{
	280,      // bpf
	282,      // userfaultfd
	273,      // finit_module
	294,      // kexec_file_load
	264, 265, // name_to_handle_at, open_by_handle_at
}
