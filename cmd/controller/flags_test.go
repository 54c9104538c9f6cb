package main

import (
	"flag"
	"testing"

	"github.com/belfrylb/belfry/internal/daemon/flagpage"
)

var rewrite = flag.Bool("rewrite", false, "write the page that lists the flags")

func TestTheFlagPageIsCurrent(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	all := new(flags).define()
	all.Lookup("identity").DefValue = "" // the hostname
	flagpage.Check(t, "controller", all, *rewrite)
}
