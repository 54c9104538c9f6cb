package link

import (
	"context"
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

// The confirmation that a suspected node is gone asks it this often, this far
// apart, and listens as long after the last time. The kernel of a node that is
// there answers in microseconds, so what bounds a wrong verdict is loss: on a
// segment that loses one frame in twenty each way, a question comes to nothing
// once in ten times, and all six once in a million (docs/design/confirmation.md).
const (
	confirmations    = 6
	confirmationWait = 10 * time.Millisecond
)

// Probe asks a station on the segment of an interface for an address of its
// own, and returns whether it answered: a node whose kernel answers is there,
// even if its speaker is not. The question is unicast to the station's hardware
// address; the answer must come from it. With a zero hardware address everybody
// is asked and anybody may answer.
//
// It returns at the first answer, else after 60 ms, plus the milliseconds that
// the kernel takes to close a packet socket. An error says that the question
// could not be asked, which says nothing about the node.
func (l *Link) Probe(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error) {
	i, ok := l.station.Load().Interface(ifindex)
	if !ok {
		return false, fmt.Errorf("probe %v: no interface %d", target, ifindex)
	}
	if f := i.Fault(); f != lb.InterfaceOK {
		return false, fmt.Errorf("probe %v on %s: interface is %v", target, i.Name, f)
	}
	question := questionFor(i, target, mac)
	s, err := openInquiry(ifindex, []lb.AddressRange{{First: target, Last: target}})
	if err != nil {
		return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
	}
	defer s.close()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, 2048)
	for range confirmations {
		if err := s.send(question); err != nil {
			return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
		}
		deadline := time.Now().Add(confirmationWait)
		if err := s.conn.SetReadDeadline(deadline); err != nil {
			return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
		}
		for {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			frame, err := s.next(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				// Perhaps it is us who did not get to run: what came meanwhile counts.
				if frame, err = s.waiting(buffer); err == nil && frame == nil {
					break
				}
			}
			if err != nil {
				return false, fmt.Errorf("probe %v on %s: %w", target, i.Name, err)
			}
			if answers(frame, target, mac) {
				return true, nil
			}
		}
	}
	return false, ctx.Err()
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
// the same subnet, or for IPv6 the link-local one. The zero address says that
// there is none, and the question will be a probe.
func sourceFor(i lb.Interface, target netip.Addr) netip.Addr {
	var source netip.Addr
	for _, p := range i.Addresses {
		if p.Contains(target) {
			return p.Addr()
		}
		if target.Is6() && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
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

// waiting returns a frame that has come already, or nil.
func (s *socket) waiting(buffer []byte) ([]byte, error) {
	var n int
	var failure error
	if err := s.raw.Control(func(fd uintptr) { n, failure = unix.Read(int(fd), buffer) }); err != nil {
		return nil, err
	}
	if errors.Is(failure, unix.EAGAIN) || errors.Is(failure, unix.EINTR) {
		return nil, nil
	}
	return buffer[:max(n, 0)], failure
}

// next waits for one frame until the read deadline.
func (s *socket) next(buffer []byte) ([]byte, error) {
	var n int
	var failure error
	if err := s.raw.Read(func(fd uintptr) bool {
		n, failure = unix.Read(int(fd), buffer)
		return !errors.Is(failure, unix.EAGAIN)
	}); err != nil {
		return nil, err
	}
	return buffer[:n], failure
}
