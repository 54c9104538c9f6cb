package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Reply is what a backend of the lab says.
type Reply struct {
	// Node and Pod are where the request ended up. A container that nobody told
	// does not know its node.
	Node, Pod string
	// Client is the address that the backend saw.
	Client netip.Addr
}

// parseReply reads the line that a backend answers with.
func parseReply(body string) (Reply, error) {
	var r Reply
	for field := range strings.FieldsSeq(body) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "node":
			r.Node = value
		case "pod":
			r.Pod = value
		case "client":
			a, err := netip.ParseAddr(value)
			if err != nil {
				return Reply{}, fmt.Errorf("reply %q: %w", body, err)
			}
			r.Client = a
		}
	}
	if r.Pod == "" || !r.Client.IsValid() {
		return Reply{}, fmt.Errorf("reply %q is not a backend's", body)
	}
	return r, nil
}

// URL is the http URL of an address and port.
func URL(address netip.Addr, port int) string {
	return "http://" + net.JoinHostPort(address.String(), strconv.Itoa(port)) + "/"
}

// Curl runs curl on the client, once.
func (o *Observers) Curl(ctx context.Context, address netip.Addr, port int) (Reply, error) {
	out, err := o.network.Exec(ctx, Client, "curl", "--silent", "--show-error", "--max-time", "2", URL(address, port))
	if err != nil {
		return Reply{}, err
	}
	return parseReply(out)
}

// Get makes one HTTP request from a host, over a connection of its own.
func (o *Observers) Get(ctx context.Context, host string, address netip.Addr, port int) (Reply, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: o.network.dialer(host)}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, URL(address, port), nil)
	if err != nil {
		return Reply{}, err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return Reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return Reply{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return Reply{}, fmt.Errorf("%s: %s", resp.Status, body)
	}
	return parseReply(string(body))
}

// An Attempt is one request of a [Load].
type Attempt struct {
	Begun, Ended time.Time
	Reply        Reply
	// Err is why it failed.
	Err error
}

// A Load is a stream of requests from the client, each over a new connection,
// begun at a steady pace whatever becomes of those before.
type Load struct {
	stop func()
	done sync.WaitGroup

	mu       sync.Mutex
	attempts []Attempt
}

// requestTimeout ends a request that gets no answer. It is below the second
// after which a lost SYN is sent again, so that each attempt tells of its own
// moment.
const requestTimeout = 900 * time.Millisecond

// Load starts requests from the client, one every interval.
func (o *Observers) Load(address netip.Addr, port int, interval time.Duration) *Load {
	return o.PatientLoad(address, port, interval, requestTimeout)
}

// PatientLoad is Load with requests that wait for longer, so that they survive
// the loss of a packet.
func (o *Observers) PatientLoad(address netip.Addr, port int, interval, patience time.Duration) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	load := &Load{stop: cancel}
	load.done.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			load.done.Go(func() {
				a := Attempt{Begun: time.Now()}
				// Not ctx: what was begun is finished.
				limit, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				a.Reply, a.Err = o.Get(limit, Client, address, port)
				a.Ended = time.Now()
				load.mu.Lock()
				defer load.mu.Unlock()
				load.attempts = append(load.attempts, a)
			})
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return load
}

// Stop ends the stream, waits for what is under way, and tells how it went.
func (l *Load) Stop() LoadResult {
	l.stop()
	l.done.Wait()
	return l.Result()
}

// Result tells how it went so far.
func (l *Load) Result() LoadResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	var r LoadResult
	var last time.Time
	nodes := map[string]bool{}
	for _, a := range l.attempts {
		r.Requests++
		if a.Err != nil {
			r.Failed = append(r.Failed, a)
			continue
		}
		nodes[a.Reply.Node] = true
		if !last.IsZero() && a.Ended.Sub(last) > r.LongestGap {
			r.LongestGap = a.Ended.Sub(last)
			r.GapBegun = last
		}
		if a.Ended.After(last) {
			last = a.Ended
		}
	}
	r.Nodes = len(nodes)
	return r
}

// A LoadResult is how a stream of requests went.
type LoadResult struct {
	Requests int
	Failed   []Attempt
	// LongestGap is the longest time between two successes, and when it began.
	LongestGap time.Duration
	GapBegun   time.Time
	// Nodes is on how many nodes the backends were.
	Nodes int
}

// String is the result in a line.
func (r LoadResult) String() string {
	s := fmt.Sprintf("%d requests, %d failed, longest time without a success %s", r.Requests, len(r.Failed), r.LongestGap.Round(time.Millisecond))
	if len(r.Failed) > 0 {
		s += fmt.Sprintf(", first failure: %v", r.Failed[0].Err)
	}
	return s
}

// Metrics reads the metrics that a process serves on a port of its host's
// loopback: the value of each series, by its text.
func (o *Observers) Metrics(ctx context.Context, host string, port int) (map[string]float64, error) {
	body, err := o.network.Exec(ctx, host, "curl", "--silent", "--show-error", "--fail", "--max-time", "2", "http://127.0.0.1:"+strconv.Itoa(port)+"/metrics")
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		i := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || i < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		all[line[:i]] = value
	}
	return all, nil
}
