package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, f *File, record string) {
	t.Helper()
	if _, err := f.Write([]byte(record)); err != nil {
		t.Fatal(err)
	}
}

func TestTheNewestRecordsAreKeptAndTheSizeIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.log")
	f, err := Open(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := range 1000 {
		write(t, f, fmt.Sprintf("record %04d\n", n)) // 12 bytes: eight fit
	}
	all := read(t, path+".2") + read(t, path+".1") + read(t, path)
	var want strings.Builder
	for n := 1000 - 24; n < 1000; n++ {
		fmt.Fprintf(&want, "record %04d\n", n)
	}
	if all != want.String() {
		t.Fatalf("kept %q", all)
	}
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 3 {
		t.Fatalf("files %v, %v", names, err)
	}
}

func TestAnotherProcessGoesOnInTheSameFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.log")
	for n := range 3 {
		f, err := Open(path, 100)
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, fmt.Sprintf("life %d %s\n", n, strings.Repeat("x", 32))) // 40 bytes: two fit
		f.Close()
	}
	if got := read(t, path); !strings.HasPrefix(got, "life 2") || strings.Count(got, "\n") != 1 {
		t.Fatalf("now %q", got)
	}
	if got := read(t, path+".1"); strings.Count(got, "life") != 2 {
		t.Fatalf("before %q", got)
	}
}

func TestALongRecordIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.log")
	f, err := Open(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, record := range []string{"a\n", strings.Repeat("b", 50) + "\n", "c\n"} {
		write(t, f, record)
	}
	if read(t, path) != "c\n" || len(read(t, path+".1")) != 51 || read(t, path+".2") != "a\n" {
		t.Fatalf("%q %q %q", read(t, path), read(t, path+".1"), read(t, path+".2"))
	}
}

func TestWritersAtTheSameTimeLoseNoRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.log")
	f, err := Open(path, 4000)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			for range 100 {
				f.Write([]byte("0123456789\n")) // 8,800 bytes in three files
			}
		}()
	}
	all.Wait()
	whole := read(t, path+".2") + read(t, path+".1") + read(t, path)
	if strings.Count(whole, "0123456789\n") != 800 || len(whole) != 8800 {
		t.Fatalf("%d records in %d bytes", strings.Count(whole, "0123456789\n"), len(whole))
	}
}

func TestABoundThatCannotBeKeptLosesTheRecord(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "relay.log")
	f, err := Open(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write(t, f, "12345678\n")
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil { // a folder that is not empty is not replaced
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path+".2", "too"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("more\n")); err == nil {
		t.Fatal("it was written")
	}
	if got := read(t, path); got != "12345678\n" {
		t.Fatalf("now %q", got)
	}
}
