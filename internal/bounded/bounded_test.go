package bounded

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// serving serves "ok" on a host until the test ends.
func serving(t *testing.T, host string) (address string, l *listener) {
	t.Helper()
	in, err := Listen(net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("NOT TESTED: this machine has no %s: %v", host, err)
	}
	s := Server(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(in); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
	return in.Addr().String(), in.(*listener)
}

// Strangers who hold connections keep nobody out, and cost no more however many there are.
func TestConnectionsThatAreHeldKeepNobodyOut(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			address, l := serving(t, host)
			dial := func(from string) net.Conn {
				d := net.Dialer{}
				if from != "" {
					d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
				}
				c, err := d.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
			ask := func(c net.Conn) error {
				if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					return err
				}
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				answer, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					return err
				}
				defer answer.Body.Close()
				if b, err := io.ReadAll(answer.Body); err != nil || string(b) != "ok" {
					return fmt.Errorf("%q, %v", b, err)
				}
				return nil
			}
			own := ""
			if host == "127.0.0.1" {
				own = "127.0.0.9"
			}
			kept := dial(own)
			if err := ask(kept); err != nil {
				t.Fatal(err)
			}
			for i := range 4 * Connections {
				c := dial("")
				if i%2 == 0 {
					_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nX: ")
				}
			}
			if err := ask(dial("")); err != nil {
				t.Errorf("who comes last: %v", err)
			}
			if own != "" { // Another source, so that it is not of the one that has most.
				if err := ask(kept); err != nil {
					t.Errorf("who came first: %v", err)
				}
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			sum := 0
			for _, of := range l.by {
				sum += of.Len()
			}
			if l.total > Connections || sum != l.total {
				t.Errorf("%d connections are open, %d of known sources", l.total, sum)
			}
		})
	}
}

// What is sent before a request is understood is bounded in bytes.
func TestARequestIsBoundedInBytes(t *testing.T) {
	address, _ := serving(t, "127.0.0.1")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for range Connections {
		wg.Go(func() {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 64<<10))
			if b, _ := io.ReadAll(c); !strings.HasPrefix(string(b), "HTTP/1.1 431") {
				t.Errorf("%q", b)
			}
		})
	}
	wg.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
}

// Who says nothing, or says it slowly, or asks nothing more, is left.
func TestSilenceHasAnEnd(t *testing.T) {
	for _, c := range []struct {
		says   []string
		within time.Duration
	}{
		{nil, 6 * time.Second},
		{[]string{"GET / HTTP/1.1\r\n", "A: b\r\n", "A: b\r\n", "A: b\r\n", "A: b\r\n"}, 6 * time.Second},
		{[]string{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", "a"}, 11 * time.Second},
		{[]string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, 91 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			in := &pipes{conns: make(chan net.Conn, 1), done: make(chan struct{})}
			s := Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, "ok")
			}))
			go func() { _ = s.Serve(in) }()
			here, there := net.Pipe()
			in.conns <- there
			begun := time.Now()
			ended := make(chan time.Duration)
			go func() { _, _ = io.Copy(io.Discard, here); ended <- time.Since(begun) }()
			go func() {
				for _, text := range c.says {
					_, _ = io.WriteString(here, text)
					time.Sleep(2 * time.Second)
				}
			}()
			if took := <-ended; took > c.within {
				t.Errorf("%q: left after %v, want %v", c.says, took, c.within)
			}
			_ = s.Close()
			time.Sleep(time.Minute)
		})
	}
}

// pipes is a listener of connections without sockets.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }
