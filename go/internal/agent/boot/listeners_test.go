package boot

import (
	"net"
	"slices"
	"testing"
)

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 3
`

const table6 = `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A
   1: 00000000000000000000000001000000:2328 00000000000000000000000000000000:0000 0A
`

func TestPortsOfAllTablesWithoutOurOwn(t *testing.T) {
	own, all := Listeners{}, Listeners{}
	own.add("header\n   0: 0200007F:0035 00000000:0000 0A\n")
	all.add(table)
	all.add(table6)
	if got := all.Ports(own); !slices.Equal(got, []int{8080, 9000}) {
		t.Errorf("got %v, want the two of the application", got)
	}
	if got := all.Ports(nil); !slices.Equal(got, []int{53, 8080, 9000}) {
		t.Errorf("got %v, want all three", got)
	}
	if got := own.Ports(own); got == nil || len(got) != 0 {
		t.Errorf("got %#v, want an empty list: JSON's null is none", got)
	}
}

func TestTheKernelsTableHasAListenerOfOurs(t *testing.T) {
	before, err := ReadListeners()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	after, err := ReadListeners()
	if err != nil {
		t.Fatal(err)
	}
	if port := listener.Addr().(*net.TCPAddr).Port; !slices.Contains(after.Ports(before), port) {
		t.Errorf("%v has no %d", after.Ports(before), port)
	}
}
