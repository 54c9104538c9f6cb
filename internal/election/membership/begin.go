package membership

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/belfrylb/belfry/internal/election"
)

// rebeginPause is the time between two attempts to gossip at an address that the node
// does not have yet (docs/design/gossip-cut.md).
const rebeginPause = time.Second

// lingerTime is how long connections are accepted at an address that gossip has left. The
// others lose this node there within half a second, and find it within another
// (docs/design/gossip-cut.md).
const lingerTime = 3 * time.Second

// begin begins to gossip.
func (l *loop) begin() error {
	m := l.m
	tr, err := m.open(netip.AddrPortFrom(l.bind, m.cfg.Port), m.border)
	if err != nil {
		return err
	}
	conf := memberlist.DefaultLANConfig()
	m.pace.apply(conf)
	conf.Name = m.cfg.Node
	conf.Transport = tr
	conf.BindAddr, conf.BindPort = l.bind.String(), int(m.cfg.Port)
	conf.AdvertisePort = int(m.cfg.Port)
	conf.Keyring = m.ring.keys
	conf.EnableCompression = false
	conf.TCPTimeout = streamTimeout
	conf.DeadNodeReclaimTime = time.Nanosecond // A dead node may return with another address at once.
	d := newDelegate(m)
	conf.Delegate, conf.Events, conf.Ping, conf.Alive = d, d, d, d
	conf.LogOutput = &logSink{
		log: m.log, dropped: m.metrics.dropped,
		connected: func(node string) {
			m.inbox.post(func(l *loop) { l.view.Pinged(l.now(), node, election.TCP) })
		},
		unanswered: func(node string) {
			m.inbox.post(func(l *loop) { l.view.Unanswered(l.now(), node) })
		},
	}
	ml, err := memberlist.Create(conf)
	if err != nil {
		_ = tr.Shutdown()
		return fmt.Errorf("start gossip on %s: %w", l.bind, err)
	}
	l.ml, l.tr = ml, tr
	return nil
}

// end ends it.
func (l *loop) end() error {
	if l.ml == nil {
		return nil
	}
	ml := l.ml
	l.ml, l.tr = nil, nil
	if err := ml.Shutdown(); err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}

// move gossips at another address.
func (l *loop) move(addr netip.Addr) {
	if addr == l.bind {
		return
	}
	l.m.log.Info("this node has another address: gossip moves", "from", l.bind, "to", addr)
	if err := l.end(); err != nil {
		l.m.log.Debug("gossip at the former address", "err", err)
	}
	l.linger(l.bind)
	l.bind = addr
	l.view.Move(l.now(), addr)
	l.rebegin()
}

// linger accepts connections at an address that gossip has left, if the node still has
// it, until the others have found this node elsewhere. A port that refuses would tell them
// that the speaker is gone.
func (l *loop) linger(addr netip.Addr) {
	var config net.ListenConfig
	door, err := config.Listen(l.ctx, "tcp", hostPort(addr, l.m.cfg.Port))
	if err != nil {
		return
	}
	l.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, lingerTime)
		defer cancel()
		context.AfterFunc(ctx, func() { _ = door.Close() })
		for {
			c, err := door.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
}

// rebegin begins anew at another address, or will try again: the API server may tell
// of it before the node has it.
func (l *loop) rebegin() {
	if err := l.begin(); err != nil {
		if l.again == 0 {
			l.m.log.Warn("cannot gossip at the node's address yet", "address", l.bind, "err", err)
		}
		l.again = l.now() + rebeginPause
		return
	}
	l.again = 0
}
