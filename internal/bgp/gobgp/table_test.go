package gobgp

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// What is asked of a table whose session has ended is owed by nobody: else no
// other could start.
func TestTableThatHasEndedKeepsNobodyWaiting(t *testing.T) {
	p := &pool{log: slog.New(slog.DiscardHandler)}
	sh := shapeOf(lb.BGPPeer{MyASN: 64512, Families: []lb.Family{lb.IPv4, lb.IPv6}}, 64513)
	for range 3 {
		table, err := newTable(t.Context(), p, sh, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := table.refresh(wire.IPv6Unicast); err != nil {
			t.Fatal(err)
		}
		table.inner.Close()
		<-table.lost
		if err := table.refresh(wire.IPv4Unicast); err == nil {
			t.Error("a table that has ended is asked, and says nothing of it")
		}
		table.mu.Lock()
		if len(table.owed) != 0 {
			t.Errorf("it owes %v", table.owed)
		}
		table.mu.Unlock()
	}
	// Others of this process hold it for moments only.
	deadline := time.After(10 * time.Second)
	for !globals.TryLock() {
		select {
		case <-deadline:
			t.Fatal("no table can start any more")
		case <-time.After(time.Millisecond):
		}
	}
	globals.Unlock()
	if len(p.free) != 1 {
		t.Errorf("%d servers are kept, want 1 that was used three times", len(p.free))
	}
}

// gobgp closes what comes from another address than the guard's, without a word, and
// listens no more once the guard is there.
func TestGobgpHeedsTheGuardAlone(t *testing.T) {
	p := &pool{log: slog.New(slog.DiscardHandler)}
	tab := &table{pool: p, server: p.get(), shape: shape{localAS: 65000, peerAS: 65001, v4: true}, lost: make(chan struct{}), owed: map[wire.Family]int{}}
	if err := tab.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer tab.retire()
	stranger := func() error {
		conn, err := net.Dial("tcp4", tab.inner.Server().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a stranger hears %d octets, %v", n, err)
		}
		return nil
	}
	if err := stranger(); err != nil {
		t.Error(err)
	}
	if err := tab.start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	defer tab.inner.Close()
	if err := stranger(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("gobgp listens on: %v", err)
	}
}
