// Package cli is kubectl belfry: commands that read a cluster, or a dump of its objects,
// and print what package world makes of it.
//
// What is printed is made by functions of values, so that tests compare whole outputs.
// Text is at most 100 columns wide, has no color unless it goes to a terminal that wants
// some, and is not meant to be parsed: -o json and -o yaml are.
//
// A command ends with 0 when all is well, with 1 when there are problems, and with 2
// when it could not look.
package cli
