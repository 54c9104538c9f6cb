package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// Probe asks a station on the segment of an interface for an address of its
// own, and returns whether it answered: a node whose kernel answers is there,
// even if its speaker is not. The question is unicast to the station's hardware
// address; the answer must come from it. With a zero hardware address everybody
// is asked and anybody may answer.
//
// It returns at the first answer, else after the segment's window: 40 ms where
// answers have lately come at once (docs/design/confirmation.md). An error says that
// the question could not be asked, which says nothing about the node.
func (l *Link) Probe(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error) {
	q, err := l.inquire(ifindex, target, mac)
	if err != nil {
		return false, fmt.Errorf("probe %v: %w", target, err)
	}
	defer l.discard(q.socket)
	stop := context.AfterFunc(ctx, func() { _ = q.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	first := time.Now()
	w := l.window(ifindex, first)
	for n := range w.Questions {
		wait := w.Apart
		if n == w.Questions-1 {
			wait = w.Last
		}
		if err := q.ask(); err != nil {
			return false, fmt.Errorf("probe %v on %s: %w", target, q.name, err)
		}
		switch at, is, err := q.await(ctx, time.Now().Add(wait)); {
		case err != nil:
			return false, fmt.Errorf("probe %v on %s: %w", target, q.name, err)
		case is:
			l.late(ifindex, at, at.Sub(first))
			return true, nil
		}
	}
	return false, ctx.Err()
}

// sounding is the pause between two questions that find out how late a segment's
// answers are, and how long an answer is waited for (docs/design/detection.md).
const sounding = time.Second

// Sound asks a station for an address of its own once a second until ctx ends, so
// that it is known how late the answers of its segment are when one is missing.
func (l *Link) Sound(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) {
	var q *inquiry
	defer func() {
		if q != nil {
			l.discard(q.socket)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(sounding)
		if q == nil {
			var err error
			if q, err = l.inquire(ifindex, target, mac); err != nil {
				continue // the interface may come up
			}
		}
		if err := l.sound(ctx, ifindex, q); err != nil {
			l.discard(q.socket)
			q = nil // the interface or its address may have changed
		}
	}
}

// sound asks once.
func (l *Link) sound(ctx context.Context, ifindex int, q *inquiry) error {
	stop := context.AfterFunc(ctx, func() { _ = q.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	first := time.Now()
	if err := q.ask(); err != nil {
		return err
	}
	at, is, err := q.await(ctx, first.Add(sounding))
	if is {
		l.late(ifindex, at, at.Sub(first))
	}
	return err
}

// window returns how a station on an interface's segment is asked.
func (l *Link) window(ifindex int, now time.Time) layer2.Window {
	l.latenessMu.Lock()
	defer l.latenessMu.Unlock()
	if known := l.lateness[ifindex]; known != nil {
		return known.Window(now)
	}
	return (&layer2.Lateness{}).Window(now)
}

// late takes note of how late an answer came.
func (l *Link) late(ifindex int, at time.Time, late time.Duration) {
	l.latenessMu.Lock()
	defer l.latenessMu.Unlock()
	known := l.lateness[ifindex]
	if known == nil {
		known = &layer2.Lateness{}
		l.lateness[ifindex] = known
	}
	known.Add(at, max(late, 0))
}

// An inquiry is a question to one station and the socket that its answer comes to.
type inquiry struct {
	*socket
	name     string
	target   netip.Addr
	mac      lb.MAC
	question []byte
	buffer   []byte
}

// inquire opens an inquiry on an interface that can be used.
func (l *Link) inquire(ifindex int, target netip.Addr, mac lb.MAC) (*inquiry, error) {
	i, ok := l.station.Load().Interface(ifindex)
	if !ok {
		return nil, fmt.Errorf("no interface %d", ifindex)
	}
	if f := i.Fault(); f != lb.InterfaceOK {
		return nil, fmt.Errorf("interface %s is %v", i.Name, f)
	}
	s, err := openInquiry(ifindex, []lb.AddressRange{{First: target, Last: target}})
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", i.Name, err)
	}
	if err := s.stamp(); err != nil {
		l.discard(s)
		return nil, fmt.Errorf("on %s: %w", i.Name, err)
	}
	return &inquiry{s, i.Name, target, mac, questionFor(i, target, mac), make([]byte, 2048)}, nil
}

func (q *inquiry) ask() error { return q.send(q.question) }

// await waits for the answer until a time, and returns when it came. What came in
// time counts although this process did not get to read it before.
func (q *inquiry) await(ctx context.Context, until time.Time) (at time.Time, is bool, err error) {
	if err := q.conn.SetReadDeadline(until); err != nil {
		return at, false, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return at, false, err
		}
		frame, at, err := q.next(q.buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if frame, at, err = q.waiting(q.buffer); err == nil && frame == nil {
				return at, false, ctx.Err()
			}
		}
		if err != nil {
			return at, false, err
		}
		if answers(frame, q.target, q.mac) {
			return at, true, nil
		}
	}
}

// Detect asks on the segment of an interface whether any of the addresses is in
// use, before they are claimed there for the first time, and returns by what
// each that is was found (at most one Heard per address). Stations that are ours
// are not listened to. It takes about half a second, and longer for more
// addresses than fit the interface's rate.
func (l *Link) Detect(ctx context.Context, ifindex int, addresses []netip.Addr, ours func(lb.MAC) bool) ([]layer2.Heard, error) {
	i, ok := l.station.Load().Interface(ifindex)
	if !ok {
		return nil, fmt.Errorf("detect duplicates: no interface %d", ifindex)
	}
	if f := i.Fault(); f != lb.InterfaceOK {
		return nil, fmt.Errorf("detect duplicates on %s: interface is %v", i.Name, f)
	}
	d := layer2.NewDetection(time.Now(), addresses, layer2.ServiceTiming, layer2.Pace{Rate: l.options.Rate}, rand.Float64)
	var ranges [2][]lb.AddressRange // IPv4, IPv6
	groups := map[layer2.Group]struct{}{}
	for _, a := range addresses {
		if a.Is4() {
			ranges[0] = append(ranges[0], lb.AddressRange{First: a, Last: a})
		} else {
			ranges[1] = append(ranges[1], lb.AddressRange{First: a, Last: a})
			groups[layer2.GroupOf(a)] = struct{}{}
		}
	}
	// RFC 4862 section 5.4.2: be in the groups first, so as to hear another that
	// detects the same.
	member := newMembership(ifindex)
	defer member.close()
	if err := member.set(groups); err != nil {
		return nil, fmt.Errorf("detect duplicates on %s: %w", i.Name, err)
	}
	heard := make(chan layer2.Heard)
	var readers sync.WaitGroup
	defer readers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sockets [2]*socket
	for n, receive := range []func(*layer2.Table, *layer2.Station, int, []byte) outcome{receiveARP, receiveNDP} {
		if len(ranges[n]) == 0 {
			continue
		}
		s, err := openInquiry(ifindex, merge(ranges[n]))
		if err != nil {
			return nil, fmt.Errorf("detect duplicates on %s: %w", i.Name, err)
		}
		sockets[n] = s
		defer s.close()
		readers.Go(func() {
			none := layer2.NewTable(nil)
			_ = s.receive(func(frame []byte) {
				o := receive(none, l.station.Load(), ifindex, frame)
				if o.malformed != wellFormed || !o.foreign {
					return
				}
				select {
				case heard <- layer2.Heard{At: time.Now(), Address: o.uses, MAC: o.usedBy, Interface: ifindex, Kind: o.kind}:
				case <-ctx.Done():
				}
			})
		})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case h := <-heard:
			if !ours(h.MAC) {
				d.Hear(h)
			}
		case <-timer.C:
		}
		probe, wake := d.Next(time.Now())
		for _, a := range probe {
			mac := l.station.Load().MAC(ifindex)
			s := sockets[0]
			if a.Is6() {
				s = sockets[1]
			}
			if err := s.send(probeFrame(mac, a)); err != nil {
				return nil, fmt.Errorf("detect duplicates on %s: probe %v: %w", i.Name, a, err)
			}
		}
		if wake.IsZero() {
			return d.Found(), nil
		}
		timer.Reset(time.Until(wake))
	}
}

// openInquiry opens a socket that hears about the addresses of ranges of one
// family.
func openInquiry(ifindex int, ranges []lb.AddressRange) (*socket, error) {
	etherType, filter := etherARP, filterARP
	if ranges[0].First.Is6() {
		etherType, filter = etherIPv6, filterNDP
	}
	return openSocket(ifindex, etherType, byRuntime, filter(scope{heard: ranges}))
}

// probeFrame asks for an address without having one (RFC 5227 section 2.1.1, RFC
// 4862 section 5.4.2).
func probeFrame(from lb.MAC, a netip.Addr) []byte {
	if a.Is4() {
		return requestARP(broadcast, from, netip.Addr{}, a)
	}
	return solicitation(lb.MAC{}, from, netip.IPv6Unspecified(), a)
}

// questionFor asks for target from an interface.
func questionFor(i lb.Interface, target netip.Addr, to lb.MAC) []byte {
	source := sourceFor(i, target)
	if target.Is4() {
		if to == (lb.MAC{}) {
			to = broadcast
		}
		return requestARP(to, i.MAC, source, target)
	}
	if !source.IsValid() {
		source, to = netip.IPv6Unspecified(), lb.MAC{}
	}
	return solicitation(to, i.MAC, source, target)
}

// sourceFor returns the address of an interface to ask for target from: one of
// the same subnet, or else the link-local one for IPv6 and any for IPv4. The zero
// address says that there is none, and the question will be a probe.
func sourceFor(i lb.Interface, target netip.Addr) netip.Addr {
	var source netip.Addr
	for _, p := range i.Addresses {
		if p.Contains(target) {
			return p.Addr()
		}
		if target.Is6() && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() || target.Is4() && p.Addr().Is4() && !source.IsValid() {
			source = p.Addr()
		}
	}
	return source
}

// answers reports whether a frame says that the station with the hardware
// address (zero: any station) has the address.
func answers(frame []byte, address netip.Addr, mac lb.MAC) bool {
	var by lb.MAC
	if address.Is4() {
		a, m := parseARP(frame)
		if m != wellFormed || a.request || a.sender != address {
			return false
		}
		by = a.senderMAC
	} else {
		n, m := parseNDP(frame)
		if m != wellFormed || n.solicitation || n.target != address {
			return false
		}
		by = n.mac
	}
	return mac == lb.MAC{} || by == mac
}

// stamp has the kernel say when it received each frame.
func (s *socket) stamp() error {
	var failure error
	if err := s.raw.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", failure)
}

// waiting returns a frame that has come already, or nil, and when it came.
func (s *socket) waiting(buffer []byte) (frame []byte, at time.Time, err error) {
	if failure := s.raw.Control(func(fd uintptr) { frame, at, err = receiveStamped(fd, buffer) }); failure != nil {
		return nil, at, failure
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, at, nil
	}
	return frame, at, err
}

// next waits for one frame until the read deadline.
func (s *socket) next(buffer []byte) (frame []byte, at time.Time, err error) {
	if failure := s.raw.Read(func(fd uintptr) bool {
		frame, at, err = receiveStamped(fd, buffer)
		return !errors.Is(err, unix.EAGAIN)
	}); failure != nil {
		return nil, at, failure
	}
	return frame, at, err
}

// receiveStamped reads a frame without waiting. When it came is what the kernel
// says: this process may not have run since.
func receiveStamped(fd uintptr, buffer []byte) (frame []byte, at time.Time, err error) {
	var control [64]byte
	n, c, _, _, err := unix.Recvmsg(int(fd), buffer, control[:], unix.MSG_DONTWAIT)
	if err != nil {
		return nil, at, err
	}
	at = time.Now()
	messages, _ := unix.ParseSocketControlMessage(control[:c])
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			at = arrival(at, time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))))
		}
	}
	return buffer[:n], at, nil
}

// unread is the longest that a frame can have waited to be read, as far as its stamp is
// believed (docs/design/detection.md).
const unread = time.Minute

// arrival returns when a frame came that is read now, on the clock that nobody can set.
// The kernel's stamp is of the other one, which may have been set since: a frame that
// was not stamped within unread of now says nothing, and came now.
func arrival(now, stamp time.Time) time.Time {
	waited := now.Sub(stamp)
	if waited < 0 || waited > unread {
		waited = 0
	}
	return now.Add(-waited)
}
