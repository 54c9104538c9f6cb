package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/layer2/ping"
)

// pingCommand is what an init container runs on nodes that are to answer echo requests.
const pingCommand = "ping-rule"

// pingRule puts the rule into the kernel, or takes it away, and ends.
func pingRule(args []string) error {
	flags := pflag.NewFlagSet("belfry-speaker "+pingCommand, pflag.ContinueOnError)
	flags.SortFlags = false
	var r ping.Rule
	flags.StringSliceVar(&r.Interfaces, "interface", nil, "interface on the segment that requests come in on, or the beginning of names and *; may be repeated")
	addresses := flags.StringSlice("address", nil, "addresses that may be asked for, as pools have them: 203.0.113.0/24 or 203.0.113.10-203.0.113.99; may be repeated")
	remove := flags.Bool("remove", false, "take the rule away")
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *remove:
		return ping.Remove()
	}
	var errs []error
	for _, text := range *addresses {
		a, err := config.ParseAddressRange(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--address %q: %w", text, err))
		}
		r.Addresses = append(r.Addresses, a)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return ping.Install(r)
}
