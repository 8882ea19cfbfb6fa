// Package logfile is a log that cannot fill the disk: a file of bounded size and two older ones beside it. What guests and clients provoke is
// logged too, so nothing else bounds it.
package logfile

import (
	"os"
	"sync"
	"syscall"
)

// older is how many full files are kept: path.1 is the newer one.
const older = 2

// File appends whole records; only one process may move a path aside. Several may append: a service that is started again goes on in the same
// file.
type File struct {
	path  string
	limit int64

	mu   sync.Mutex
	file *os.File
	size int64
}

// Open appends to path, of limit bytes at most.
func Open(path string, limit int64) (*File, error) {
	f := &File{path: path, limit: limit}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

// Write appends one record. One that would make the file too long begins the next file; when that cannot be made, the record is lost rather
// than the bound.
func (f *File) Write(record []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size > 0 && f.size+int64(len(record)) > f.limit {
		if err := f.turn(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(record)
	f.size += int64(n)
	return n, err
}

// TakeStderr lets descriptor 2 be the file of now and of later: what the runtime says of a panic goes there.
func (f *File) TakeStderr() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stderr(f.file)
}

// Close closes the file; descriptor 2, if taken, stays.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}

// turn moves the files on by one number and begins a new one.
func (f *File) turn() error {
	for n := older; n > 1; n-- {
		if err := os.Rename(f.name(n-1), f.name(n)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := os.Rename(f.path, f.name(1)); err != nil && !os.IsNotExist(err) {
		return err
	}
	full := f.file
	if err := f.open(); err != nil {
		return err
	}
	defer full.Close()
	if same(full, os.Stderr) {
		return f.stderr(f.file)
	}
	return nil
}

func (f *File) name(number int) string { return f.path + "." + string(rune('0'+number)) }

func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	about, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	f.file, f.size = file, about.Size()
	return nil
}

func (f *File) stderr(file *os.File) error { return syscall.Dup3(int(file.Fd()), 2, 0) }

// same says whether two descriptors are one file.
func same(a, b *os.File) bool {
	left, err := a.Stat()
	if err != nil {
		return false
	}
	right, err := b.Stat()
	return err == nil && os.SameFile(left, right)
}
