package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// docs/design/guard.md has the reasons.
const (
	// advertiseInterval is how often we show ourselves to the router. FRR waits
	// for this before it answers a session over link-local addresses.
	advertiseInterval = 4 * time.Second
	// neighborLifetime is how long a silent router is held against another that
	// shows itself.
	neighborLifetime = 30 * time.Second
)

// WatchNeighbor finds the router at the other end of an interface by its router
// advertisements, and shows ourselves by ours, which offer no route (lifetime
// 0). It calls found with the router's link-local address, zone included, each
// time that it changes, and returns when ctx ends or the interface fails.
func WatchNeighbor(ctx context.Context, device string, found func(netip.Addr)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("watch for routers on %s: panic: %v", device, p)
		}
	}()
	ifi, err := net.InterfaceByName(device)
	if err != nil {
		return fmt.Errorf("interface %s: %w", device, rootOf(err))
	}
	conn, own, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return fmt.Errorf("listen for routers on %s: %w", device, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	if err := conn.SetICMPFilter(&filter); err != nil {
		return fmt.Errorf("listen for routers on %s: %w", device, err)
	}
	if err := conn.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		return fmt.Errorf("listen for routers on %s: %w", device, err)
	}
	all := netip.MustParseAddr("ff02::1").WithZone(device)
	routers := netip.MustParseAddr("ff02::2").WithZone(device)
	if err := conn.JoinGroup(routers); err != nil {
		return fmt.Errorf("join the routers of %s: %w", device, err)
	}
	var source []ndp.Option
	if len(ifi.HardwareAddr) > 0 {
		source = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}}
	}
	if err := conn.WriteTo(&ndp.RouterSolicitation{Options: source}, nil, routers); err != nil {
		return fmt.Errorf("solicit routers on %s: %w", device, err)
	}
	var router netip.Addr
	var heard, shown time.Time
	for {
		if time.Since(shown) >= advertiseInterval {
			if err := conn.WriteTo(&ndp.RouterAdvertisement{Options: source}, nil, all); err != nil {
				return fmt.Errorf("advertise on %s: %w", device, err)
			}
			shown = time.Now()
		}
		_ = conn.SetReadDeadline(shown.Add(advertiseInterval))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		msg, cm, from, err := conn.ReadFrom()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil: // not what was read: package ndp drops what is malformed
			return fmt.Errorf("listen for routers on %s: %w", device, rootOf(err))
		case cm == nil || cm.HopLimit != ndp.HopLimit || from.WithZone("") == own.WithZone(""):
			continue // from beyond the link, or ours
		case !from.IsLinkLocalUnicast():
			continue // as no router's is (RFC 4861 section 6.1.2)
		}
		switch msg.(type) {
		case *ndp.RouterSolicitation:
			// At once, but not for each of a flood.
			if time.Since(shown) > advertiseInterval/8 {
				shown = time.Time{}
			}
		case *ndp.RouterAdvertisement:
			from = from.WithZone(device)
			if from != router && router.IsValid() && time.Since(heard) < neighborLifetime {
				continue
			}
			heard = time.Now()
			if from != router {
				router = from
				found(router)
			}
		}
	}
}
