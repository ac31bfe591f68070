// Package config is the settings of the program: each a flag and an environment
// variable of the same name, described in one table.
//
// A command lists the settings that it uses (Flags) and reads them in its action
// through a Reader, which collects everything that is wrong and missing, so that one
// start names all of it. A value comes from the flag, else from the variable, else
// from dopamine.env in the data folder (FromData), else it is the default. An empty
// value counts as none.
package config
