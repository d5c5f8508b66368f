-- Reserved for keys.
select 1;
