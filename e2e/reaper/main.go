// Command reaper removes what tests have left behind. It speaks the protocol of
// testcontainers' Ryuk, whose own program no registry of the tests has: each client
// sends lines of filters such as label=a=b&label=c=d and gets ACK for each; when the
// last client has gone, and none comes back, what matches a filter is removed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// away is how long clients may stay away, as RYUK_RECONNECTION_TIMEOUT says.
const away = 10 * time.Second

type reaper struct {
	engine *http.Client

	mu      sync.Mutex
	filters map[string]bool
	clients int
	timer   *time.Timer // runs while no client is there
}

func main() {
	wait := away
	if d, err := time.ParseDuration(os.Getenv("RYUK_RECONNECTION_TIMEOUT")); err == nil {
		wait = d
	}
	done := make(chan struct{})
	r := &reaper{filters: map[string]bool{}, engine: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
		}}}}
	r.timer = time.AfterFunc(time.Minute, func() { close(done) })
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Print("Started")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				log.Fatal(err)
			}
			r.come()
			go func() {
				r.listen(conn)
				r.leave(wait)
			}()
		}
	}()
	<-done
	r.reap()
}

func (r *reaper) come() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients++
	r.timer.Stop()
}

func (r *reaper) leave(wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients--; r.clients == 0 {
		r.timer.Reset(wait)
	}
}

// listen takes a client's filters until it goes.
func (r *reaper) listen(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		query, err := url.ParseQuery(strings.TrimSpace(lines.Text()))
		if err != nil {
			log.Print(err)
			return
		}
		filter, err := json.Marshal(query)
		if err != nil {
			log.Print(err)
			return
		}
		r.mu.Lock()
		r.filters[string(filter)] = true
		r.mu.Unlock()
		log.Printf("will remove %s", filter)
		fmt.Fprint(conn, "ACK\n")
	}
}

// reap removes the containers and networks that match a filter.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for filter := range r.filters {
		for _, list := range []string{"/containers/json?all=1&", "/networks?"} {
			kind, _, _ := strings.Cut(list[1:], "?")
			for _, id := range r.list(list + "filters=" + url.QueryEscape(filter)) {
				r.remove("/" + strings.TrimSuffix(kind, "/json") + "/" + id + "?force=1&v=1")
			}
		}
	}
}

func (r *reaper) list(path string) (ids []string) {
	response, err := r.engine.Get("http://engine" + path)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	var found []struct{ ID string }
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		log.Fatal(err)
	}
	for _, f := range found {
		ids = append(ids, f.ID)
	}
	return ids
}

func (r *reaper) remove(path string) {
	request, err := http.NewRequest(http.MethodDelete, "http://engine"+path, nil)
	if err != nil {
		log.Fatal(err)
	}
	response, err := r.engine.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	response.Body.Close()
	log.Printf("removed %s: %s", path, response.Status)
}
