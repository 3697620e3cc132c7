package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// lastWord bounds how long those who watch may take to hear the last status.
const lastWord = time.Second

// A status that changes more often than watchBurst times, as no machine's does that is
// well, is told once in watchPause.
const (
	watchBurst = 200
	watchPause = 50 * time.Millisecond
)

// Serve answers on l until ctx ends. Whoever watches hears a status of Stopped
// before it returns.
func Serve(ctx context.Context, l net.Listener, s Supervisor) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		status, _ := s.Status()
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status)
	})
	mux.HandleFunc("GET /watch", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		flush := http.NewResponseController(w)
		for sent := 0; ; sent++ {
			if sent > watchBurst {
				time.Sleep(watchPause)
			}
			status, changed := s.Status()
			if json.NewEncoder(w).Encode(status) != nil || flush.Flush() != nil || status.State == Stopped {
				return
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		stats, err := s.Stats(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(stats)
	})
	mux.HandleFunc("POST /stop", act(s.Stop))
	mux.HandleFunc("POST /copy", act(s.Copy))
	mux.HandleFunc("POST /examine", act(s.Examine))
	mux.HandleFunc("POST /reload", act(func(ctx context.Context, _ struct{}) error { return s.Reload(ctx) }))
	mux.HandleFunc("POST /identify", act(func(ctx context.Context, _ struct{}) error { return s.Identify(ctx) }))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		last, cancel := context.WithTimeout(context.Background(), lastWord)
		defer cancel()
		server.Shutdown(last)
		server.Close()
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serving the control socket: %w", err)
	}
	<-done
	return nil
}

// act makes a handler of what a request asks for.
func act[Request any](do func(context.Context, Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request Request
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&request)
		if err == nil {
			err = do(r.Context(), request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	}
}
