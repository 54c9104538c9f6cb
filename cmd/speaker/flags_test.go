package main

import (
	"flag"
	"testing"

	"github.com/belfrylb/belfry/internal/daemon/flagpage"
)

var rewrite = flag.Bool("rewrite", false, "write the page that lists the flags")

func TestTheFlagPageIsCurrent(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	t.Setenv("POD_NAMESPACE", "")
	flagpage.Check(t, "speaker", new(options).flags(new(given)), *rewrite)
}
