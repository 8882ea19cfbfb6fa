// Command worker answers each line with random numbers, as JSON.
package main

import (
	"bufio"
	crypto "crypto/rand"
	"encoding/hex"
	"encoding/json"
	"math/rand"
	v2 "math/rand/v2"
	"os"
)

func main() {
	lines, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for lines.Scan() {
		key := make([]byte, 8)
		crypto.Read(key)
		answers.Encode(map[string]any{"math": rand.Uint64(), "v2": v2.Uint64(), "crypto": hex.EncodeToString(key)})
	}
}
