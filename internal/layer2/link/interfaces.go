package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/lb"
)

// mayListen reports whether this process may open packet sockets at all: without
// CAP_NET_RAW it may not, and any other answer is about the moment.
func mayListen() bool {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return !errors.Is(err, unix.EPERM)
}

// list asks the kernel for all interfaces with their addresses, by index.
func list() ([]lb.Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	routers := map[int]bool{} // VRF devices: what they gather still speaks for itself
	for _, l := range links {
		if l.Type() == "vrf" {
			routers[l.Attrs().Index] = true
		}
	}
	prefixes := map[int][]netip.Prefix{}
	flags := map[int]map[netip.Prefix]lb.AddressFlags{}
	for _, a := range addresses {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		ones, _ := a.Mask.Size()
		p := netip.PrefixFrom(ip.Unmap(), ones)
		prefixes[a.LinkIndex] = append(prefixes[a.LinkIndex], p)
		if f := flagsOf(p, a.Flags); f != 0 {
			if flags[a.LinkIndex] == nil {
				flags[a.LinkIndex] = map[netip.Prefix]lb.AddressFlags{}
			}
			flags[a.LinkIndex][p] = f
		}
	}
	interfaces := make([]lb.Interface, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		i := lb.Interface{
			Index:     a.Index,
			Name:      a.Name,
			Up:        a.RawFlags&unix.IFF_UP != 0,
			Carrier:   a.RawFlags&unix.IFF_LOWER_UP != 0,
			Loopback:  a.RawFlags&unix.IFF_LOOPBACK != 0,
			NoARP:     a.RawFlags&unix.IFF_NOARP != 0,
			Enslaved:  a.MasterIndex != 0 && !routers[a.MasterIndex],
			Addresses: prefixes[a.Index],
			Flags:     flags[a.Index],
		}
		if len(a.HardwareAddr) == len(i.MAC) {
			copy(i.MAC[:], a.HardwareAddr)
		}
		slices.SortFunc(i.Addresses, netip.Prefix.Compare)
		interfaces = append(interfaces, i)
	}
	slices.SortFunc(interfaces, func(a, b lb.Interface) int { return a.Index - b.Index })
	for _, p := range doubled(interfaces) {
		route(interfaces, p)
	}
	return interfaces, nil
}

// doubled returns the subnets, ascending, that several interfaces are in which can
// announce.
func doubled(interfaces []lb.Interface) []netip.Prefix {
	in := map[netip.Prefix]int{} // the first interface, less those that follow
	var twice []netip.Prefix
	for _, i := range interfaces {
		if i.Fault() != lb.InterfaceOK {
			continue
		}
		for _, p := range i.Addresses {
			if p = p.Masked(); p.Addr().IsLinkLocalUnicast() || p.Addr().BitLen()-p.Bits() < 2 {
				continue
			}
			if first, before := in[p]; !before {
				in[p] = i.Index
			} else if first != i.Index {
				twice = append(twice, p)
			}
		}
	}
	slices.SortFunc(twice, netip.Prefix.Compare)
	return slices.Compact(twice)
}

// route notes to which interfaces in a subnet the kernel's route to it does not lead. A
// route that leads to none of them says nothing.
func route(interfaces []lb.Interface, subnet netip.Prefix) {
	is := func(a netip.Addr) bool {
		return slices.ContainsFunc(interfaces, func(i lb.Interface) bool {
			return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
		})
	}
	station := subnet.Addr().Next() // where none of the node's own is
	for is(station) {
		station = station.Next()
	}
	if !subnet.Contains(station) {
		return
	}
	routes, err := netlink.RouteGet(station.AsSlice())
	if err != nil || len(routes) == 0 {
		return
	}
	var others []*lb.Interface
	leads := false
	for k := range interfaces {
		i := &interfaces[k]
		switch {
		case i.Fault() != lb.InterfaceOK || !slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Masked() == subnet }):
		case i.Index == routes[0].LinkIndex:
			leads = true
		default:
			others = append(others, i)
		}
	}
	if leads {
		for _, i := range others {
			i.Elsewhere = append(i.Elsewhere, subnet)
		}
	}
}

// flagsOf translates the kernel's flags (IFA_F_*) of an address.
func flagsOf(p netip.Prefix, kernel int) (f lb.AddressFlags) {
	has := func(flags int) bool { return kernel&flags != 0 }
	if has(unix.IFA_F_TENTATIVE) && !has(unix.IFA_F_OPTIMISTIC) {
		f |= lb.AddressTentative
	}
	if has(unix.IFA_F_DEPRECATED) {
		f |= lb.AddressDeprecated
	}
	switch { // IFA_F_SECONDARY and IFA_F_TEMPORARY are one bit
	case !has(unix.IFA_F_SECONDARY):
	case p.Addr().Is4():
		f |= lb.AddressSecondary
	default:
		f |= lb.AddressTemporary
	}
	if !has(unix.IFA_F_PERMANENT) {
		f |= lb.AddressDynamic
	}
	return f
}

// A subscription hears of changes to links and addresses, and to the routes to some
// subnets.
type subscription struct {
	socket *nl.NetlinkSocket
	// routes are the subnets, nil at first.
	routes atomic.Pointer[[]netip.Prefix]
	// changes carries, for each batch of messages, the interfaces that were
	// without carrier at one moment of it: a flap may be over before the state
	// can be listed. It is closed when the subscription broke.
	changes chan []int
	err     error // why it broke; read after changes was closed
}

func subscribe() (*subscription, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink: %w", err)
	}
	return &subscription{socket: s, changes: make(chan []int, 16)}, nil
}

// follow has changes to the routes to exactly these subnets heard, and reports whether
// others were heard before. A node may have many routes, which are no business of ours.
func (s *subscription) follow(subnets []netip.Prefix) (changed bool) {
	before := s.routes.Swap(&subnets)
	if before == nil {
		before = new([]netip.Prefix)
	}
	if on := len(subnets) > 0; on != (len(*before) > 0) {
		option := unix.NETLINK_DROP_MEMBERSHIP
		if on {
			option = unix.NETLINK_ADD_MEMBERSHIP
		}
		for _, group := range []int{unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
			_ = unix.SetsockoptInt(s.socket.GetFd(), unix.SOL_NETLINK, option, group) // fails where there is no IPv6
		}
	}
	return !slices.Equal(*before, subnets)
}

// followed reports whether a message is of something that is followed.
func (s *subscription) followed(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return true
	}
	subnets := s.routes.Load()
	if subnets == nil || len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	r := nl.DeserializeRtMsg(m.Data)
	attributes, err := nl.ParseRouteAttr(m.Data[unix.SizeofRtMsg:])
	if err != nil {
		return false
	}
	for _, a := range attributes {
		if to, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == unix.RTA_DST {
			return slices.Contains(*subnets, netip.PrefixFrom(to, int(r.Dst_len)))
		}
	}
	return false
}

// run receives until the socket is closed or breaks, or the context ends.
func (s *subscription) run(ctx context.Context) {
	defer close(s.changes)
	for {
		messages, from, err := s.socket.Receive()
		var down []int
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// More happened than fitted. What was lost shows when the state is
			// listed, and only there.
		case err != nil:
			s.err = err
			return
		case from.Pid != nl.PidKernel || !slices.ContainsFunc(messages, s.followed):
			continue
		}
		for _, m := range messages {
			if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
				continue
			}
			const running = unix.IFF_UP | unix.IFF_LOWER_UP
			if i := nl.DeserializeIfInfomsg(m.Data); i.Family == unix.AF_UNSPEC && i.Flags&running != running {
				down = append(down, int(i.Index))
			}
		}
		select {
		case s.changes <- down:
		case <-ctx.Done():
			return
		}
	}
}
