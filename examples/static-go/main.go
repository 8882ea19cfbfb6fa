// The smallest useful guest: one static binary on an empty image. It answers GET / and every lifecycle hook.
//
// Build it with CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o app .
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"sync/atomic"
)

func main() {
	var answered atomic.Int64
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		hostname, err := os.Hostname() // asked anew: a clone has another one than the machine that was frozen
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s %d\n", hostname, answered.Add(1))
	})
	http.HandleFunc("POST /aws/lambda-microvms/runtime/v1/{hook}", func(http.ResponseWriter, *http.Request) {})
	log.Fatal(http.ListenAndServe(os.Getenv("LISTEN")+":8080", nil))
}
