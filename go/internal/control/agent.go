package control

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"rekindle/internal/vm"
)

const channelTimeout = 30 * time.Second

// agent forwards a request to the guest's agent as soon as the channel is up, and the answer as it comes in.
func (s *Server) agent(w http.ResponseWriter, r *http.Request, target *vm.VM) {
	// The agent may answer while the request's body still comes in. It fails only for writers that are not net/http's.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	if r.PathValue("rest") == freezePath {
		defer func() {
			if r.Context().Err() != nil {
				target.Disconnect()
			}
		}()
	}
	response, err := ask(r, target)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	defer response.Body.Close()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.Header().Del(noRoute)
	w.WriteHeader(response.StatusCode)
	if err := stream(w, response); err != nil {
		panic(http.ErrAbortHandler) // so that the answer does not look whole
	}
}

// freezePath is the request that a guest answers with the last bytes of its session. When nobody waits for that answer any more it never
// comes, and the guest holds back everything else behind it: then only a new session brings it back.
const freezePath = "v1/freeze"

func ask(r *http.Request, target *vm.VM) (*http.Response, error) {
	waiting, cancel := context.WithTimeout(r.Context(), channelTimeout)
	session, err := target.AwaitSession(waiting)
	cancel()
	if err != nil {
		return nil, err
	}
	out := &http.Request{
		Method:        r.Method,
		URL:           &url.URL{Scheme: "http", Host: "guest", Path: "/" + r.PathValue("rest"), RawQuery: r.URL.RawQuery},
		Header:        http.Header{},
		ContentLength: r.ContentLength,
	}
	if r.ContentLength != 0 {
		out.Body = io.NopCloser(r.Body) // the server closes it
	}
	if kind := r.Header.Get("Content-Type"); kind != "" {
		out.Header.Set("Content-Type", kind)
	}
	return session.Agent().RoundTrip(out.WithContext(r.Context()))
}

func stream(w http.ResponseWriter, response *http.Response) error {
	flusher := http.NewResponseController(w)
	if response.ContentLength < 0 {
		if err := flusher.Flush(); err != nil {
			return err
		}
	}
	buffer := make([]byte, 16<<10)
	for {
		n, err := response.Body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := flusher.Flush(); err != nil {
			return err
		}
	}
}
