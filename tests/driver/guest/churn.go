package main

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Memory that is written all the time, so that every stop is in the middle of something. A page is right when all its
// words come from one count: whoever stops it in between must put back the page and the place in it.
var churning struct {
	sync.Mutex
	block []byte
	count uint64
}

func churn(mib string) (string, error) {
	size, err := strconv.Atoi(mib)
	if err != nil {
		return "", err
	}
	churning.Lock()
	defer churning.Unlock()
	if churning.block == nil {
		churning.block = make([]byte, size<<20)
		go writeForEver()
	}
	return "churning", nil
}

func writeForEver() {
	for {
		churning.Lock()
		churning.count++
		at := int(churning.count*7919) % (len(churning.block) / pageBytes) * pageBytes
		for word := at; word < at+pageBytes; word += 8 {
			binary.LittleEndian.PutUint64(churning.block[word:], churning.count*uint64(word+1))
		}
		churning.Unlock()
		time.Sleep(300 * time.Microsecond)
	}
}

// churned says how many pages were written, after checking every one of them.
func churned() (string, error) {
	churning.Lock()
	defer churning.Unlock()
	for at := 0; at < len(churning.block); at += pageBytes {
		count := binary.LittleEndian.Uint64(churning.block[at:]) / uint64(at+1)
		for word := at; word < at+pageBytes; word += 8 {
			if binary.LittleEndian.Uint64(churning.block[word:]) != count*uint64(word+1) {
				return "", fmt.Errorf("page %d of what is written all the time is of two moments", at/pageBytes)
			}
		}
	}
	return strconv.FormatUint(churning.count, 10), nil
}
